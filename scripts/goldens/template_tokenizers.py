"""Small tokenizers for `labels.json`, trained on a few lines of chat text. Imported by `templates.py`.

  byte_level     Byte-level BPE that splits as dolma2 does: `:\n`, `>\n\n` and ` Hello` may be one token.
  sentencepiece  BPE as Llama 2 has it: byte fallback, a space before each piece, `▁` for a space, no pre-tokenizer.
  nfc            Byte-level BPE as GPT-NeoX has it: NFC, GPT-2's regex, trimmed offsets, runs of spaces as added tokens.
"""

import json

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

DOLMA2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

# `special_tokens` are the arguments of `PreTrainedTokenizerFast`; templates see the same names.
TOKENIZERS = {
    "byte_level": {
        "special_tokens": {
            "bos_token": "<|endoftext|>",
            "eos_token": "<|endoftext|>",
            "unk_token": "<|endoftext|>",
            "pad_token": "<|pad|>",
        }
    },
    "sentencepiece": {"special_tokens": {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}},
    "nfc": {"special_tokens": {"eos_token": "<|im_end|>", "pad_token": "<|padding|>"}},
}

TEXTS = [
    "<|user|>\nHello\n<|assistant|>\n\n\nHello: you\n",
    "<|user|>\nHi\n<|assistant|>\nHello there.<|end|>\n\n<|user|>\n",
    "USER: Hello ASSISTANT: Hello there. USER: Why? ASSISTANT: Because.",
    "### Instruction:\nHello\n\n### Response:\nHello there.\n\n### Instruction:\n",
    "[INST] Hi [/INST] Hello [INST] One? [/INST] 1 [INST] Two? [/INST] Two.\n\nYes",
    "[INST] <<SYS>>\nYou are kind.\n<</SYS>>\n\nOne? [/INST] Hello there. Bye ",
    "<start_of_turn>user\nHello<end_of_turn>\n<start_of_turn>model\nBye<end_of_turn>\n",
    "<|start_header_id|>assistant<|end_header_id|>\n\nHello there.<|eot_id|>",
    "assistant\nYes, it is 21.5 °C.\nuser\nBe brief. You are OLMo, a helpful assistant.\nsystem\n",
    "Café é 漢字 🦀 Ünï 한 \u3000 \u00a0  a  b\t\t",
]


def train(tokenizer, size, **settings):
    trainer = trainers.BpeTrainer(vocab_size=size, show_progress=False, **settings)
    tokenizer.train_from_iterator(TEXTS * 4, trainer)


def byte_level():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(DOLMA2), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|pad|>", "<|im_start|>", "<|im_end|>", "<|im_sep|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    train(tokenizer, 560, special_tokens=special, initial_alphabet=alphabet)
    tokenizer.add_tokens([AddedToken("<function_calls>", normalized=False), AddedToken("</function_calls>", normalized=False)])
    return json.loads(tokenizer.to_str())


def nfc():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|padding|>", "<|im_start|>", "<|im_end|>", "<|eot_id|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    train(tokenizer, 480, special_tokens=special, initial_alphabet=alphabet)
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    tokenizer.add_tokens([AddedToken("    ", normalized=True), AddedToken("  ", normalized=True)])
    # The token takes the whitespace before it; trimming takes that out of the offsets again.
    tokenizer.add_tokens([AddedToken("<|end|>", lstrip=True, normalized=False)])
    return json.loads(tokenizer.to_str())


def sentencepiece():
    normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    learner = Tokenizer(models.BPE())
    learner.normalizer = normalizer
    learner.pre_tokenizer = pre_tokenizers.Split(Regex(r"▁*[^▁\n]+|\n+|▁+"), behavior="isolated")
    train(learner, 300, limit_alphabet=90)
    learned = json.loads(learner.to_str())["model"]
    pieces = ["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)]
    pieces += sorted(learned["vocab"], key=learned["vocab"].get)
    # A piece over a line break joins the template's text and the answer.
    merges = learned["merges"] + [["\n", "\n"], [":", "\n"], [">", "\n"]]
    pieces += [piece for piece in ["\n", "\n\n", ":\n", ">\n"] if piece not in pieces]
    merges = [list(pair) for pair in dict.fromkeys(map(tuple, merges)) if all(half in pieces for half in pair)]
    model = models.BPE(
        vocab={piece: number for number, piece in enumerate(pieces)},
        merges=[tuple(pair) for pair in merges],
        unk_token="<unk>",
        fuse_unk=True,
        byte_fallback=True,
    )
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizer
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in ["<unk>", "<s>", "</s>"]])
    # As in Phi-3, these tokens take the whitespace after them, which may be the start of the answer.
    phi = [AddedToken(token, rstrip=True, normalized=False) for token in ["<|assistant|>", "<|end|>"]]
    tokenizer.add_special_tokens(phi)
    return json.loads(tokenizer.to_str())


def build():
    """The name and the file of each tokenizer."""
    for name, make in {"byte_level": byte_level, "sentencepiece": sentencepiece, "nfc": nfc}.items():
        yield name, json.dumps(make(), ensure_ascii=False, separators=(",", ":")) + "\n"
