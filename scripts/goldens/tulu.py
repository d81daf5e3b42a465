#!/usr/bin/env python3
"""Makes crates/olmo-data/tests/fixtures/tulu: rows that OLMo's own script makes of hostile conversations.

The tokenizers are the small one of the fixtures, changed as `variants.json` says to the kinds that OLMo has. Pins: olmo_tulu.py.
    python scripts/goldens/tulu.py OLMO_CLONE
"""

import json
import pathlib
import random
import subprocess
import sys
import tempfile

FIXTURES = pathlib.Path("crates/olmo-data/tests/fixtures")
DOLMA2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PIECES = [
    " ", "  ", "    ", "\n", "\n\n", "\t", "\r\n", "\u00a0", "\u3000", "\u2028", "\x1f", "\x1c", "\u0085", "é", "e\u0301",
    "\u0301", "ｅ", "漢字", "한", "\u1112\u1161", "🦀", "👩\u200d👩\u200d👧", "ﷺ", "ﬁ", "\u200b", "\ufeff", "<|user|>",
    "<|assistant|>\n", "|>", "<", ">", "a", " the", "'s", "'S", "'\u017f", "'ll", "4.", "?", "!!\n", "123456", "\x00", "Answer",
    " is that", "²", "Ⅷ", "_", "½",
]  # fmt: skip


def byte_level(regex):
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": regex}


def added(token_id, content, special, normalized):
    flags = {"single_word": False, "lstrip": False, "rstrip": False}
    return {"id": token_id, "content": content, **flags, "normalized": normalized, "special": special}


def split(pattern):
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Removed", "invert": True}


VARIANTS = {
    "plain": {"eos": 0, "pad": 1, "seq_len": 64, "changes": {}},
    # GPT-NeoX: eos is an ordinary added token, and so are runs of spaces.
    "neox": {
        "eos": 512,
        "pad": 1,
        "seq_len": 96,
        "changes": {
            "normalizer": {"type": "NFC"},
            "pre_tokenizer": byte_level(True),
            "post_processor": byte_level(True),
            "added_tokens": [
                added(0, "<|endoftext|>", True, False),
                added(1, "<|padding|>", True, False),
                added(512, "|||IP_ADDRESS|||", False, True),
                added(513, "    ", False, True),
                added(514, "  ", False, True),
            ],
        },
    },
    "dolma2": {
        "eos": 0,
        "pad": 5,
        "seq_len": 80,
        "changes": {
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split(DOLMA2), byte_level(False)]},
            "post_processor": None,
        },
    },
}


def chats():
    rng = random.Random(7)
    for number in range(160):
        turns = []
        for turn in range(rng.randint(1, 6)):
            role = rng.choice(["system", "user", "assistant"]) if number % 2 else ["user", "assistant"][turn % 2]
            content = "".join(rng.choice(PIECES) for _ in range(rng.randint(0, 12)))
            turns.append({"role": role, "content": content})
        yield {"dataset": "hostile", "id": f"hostile_{number}", "messages": turns}


def main():
    olmo = sys.argv[1]
    folder = FIXTURES / "tulu"
    folder.mkdir(exist_ok=True)
    (folder / "variants.json").write_text(json.dumps(VARIANTS, indent=2, ensure_ascii=False) + "\n")
    lines = [json.dumps(chat, ensure_ascii=False) for chat in chats()]
    (folder / "chats.jsonl").write_text("\n".join(lines) + "\n")
    for name, variant in VARIANTS.items():
        tokenizer = json.loads((FIXTURES / "tokenizer.json").read_text()) | variant["changes"]
        with tempfile.TemporaryDirectory() as work:
            path = pathlib.Path(work) / "tokenizer.json"
            path.write_text(json.dumps(tokenizer, ensure_ascii=False))
            command = [sys.executable, "scripts/goldens/olmo_tulu.py", olmo, str(folder / "chats.jsonl"), work]
            command += ["--tokenizer", str(path), "--eos", str(variant["eos"]), "--pad", str(variant["pad"])]
            subprocess.run(command + ["--seq-len", str(variant["seq_len"]), "--num-proc", "1"], check=True)
            for file in ["input_ids", "label_mask"]:
                (folder / f"{name}.{file}.npy").write_bytes((pathlib.Path(work) / f"{file}.npy").read_bytes())


if __name__ == "__main__":
    main()
