"""Inputs of `styles.json` and `labels.json`: conversations and special tokens. Imported by `templates.py`."""

ENDOFTEXT = {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>", "pad_token": "<|pad|>"}
LLAMA = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
DEEPSEEK = {"bos_token": "<｜begin▁of▁sentence｜>", "eos_token": "<｜end▁of▁sentence｜>", "pad_token": "<｜end▁of▁sentence｜>"}
GEMMA = {"bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>", "pad_token": "<pad>"}
LLAMA_3 = {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"}

# Special tokens of each template in `styles`, as in a tokenizer's `special_tokens_map`.
STYLES = {
    "tulu_3": {"bos_token": "<|begin_of_text|>", "eos_token": "<|end_of_text|>", "pad_token": "<pad>"},
    "olmo_2": ENDOFTEXT,
    "olmo_3_instruct": ENDOFTEXT,
    "olmo_3_think": ENDOFTEXT,
    "chatml": {"eos_token": "<|im_end|>"},
    "chatml_default_system": {},
    "llama_2": LLAMA,
    "llama_3": LLAMA_3,
    "llama_3_1": LLAMA_3,
    "mistral_v1": LLAMA,
    "mistral_v3": LLAMA,
    "mistral_tekken": LLAMA,
    "qwen_2_5": {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"},
    "qwen_3": {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"},
    "gemma_2": GEMMA,
    "gemma_3": GEMMA,
    "phi_3": {"bos_token": "<s>", "eos_token": "<|endoftext|>", "unk_token": "<unk>", "pad_token": "<|endoftext|>"},
    "phi_4": {"eos_token": "<|im_end|>"},
    "phi_4_mini": {"eos_token": "<|endoftext|>"},
    "deepseek_v2": DEEPSEEK,
    "deepseek_v3": DEEPSEEK,
    "deepseek_r1": DEEPSEEK,
    "vicuna": LLAMA,
    "alpaca": {"eos_token": "</s>"},
    "zephyr": LLAMA,
    "falcon": {"eos_token": "<|endoftext|>"},
    "command_r": {"bos_token": "<BOS_TOKEN>", "eos_token": "<|END_OF_TURN_TOKEN|>"},
    "granite": {"eos_token": "<|end_of_text|>"},
    "smollm_3": {"eos_token": "<|im_end|>"},
    "internlm_2": LLAMA,
    "yi": {"eos_token": "<|im_end|>"},
    "hermes": {"bos_token": "<|begin_of_text|>", "eos_token": "<|im_end|>"},
    "harmony": {"bos_token": "<|startoftext|>", "eos_token": "<|return|>"},
    "nemotron": {"bos_token": "<s>", "eos_token": "<SPECIAL_12>"},
    "macro_turns": {"eos_token": "</s>"},
    "multipart": {},
    "generation_in_macro": {},
}

# Templates with generation tags around each answer and its end token, and the template without the tags.
PAIRS = {
    f"{name}_tagged": name
    for name in ["tulu_3", "olmo_2", "olmo_3_instruct", "chatml", "llama_2", "llama_3", "vicuna", "gemma_2", "alpaca"]
}
STYLES |= {tagged: STYLES[plain] for tagged, plain in PAIRS.items()}

# Templates of `labels.json`: every one with generation tags.
LABELLED = [*PAIRS, "phi_4", "smollm_3", "generation_in_macro"]

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Reads the weather. \"Quoted\" & <b>é</b>",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "The city"},
                "days": {"type": "integer", "description": "Days ahead", "default": 1},
                "units": {"type": "string", "enum": ["C", "F"], "description": "Units"},
                "tags": {"type": "array", "items": {"type": "string"}, "description": "Tags"},
            },
            "required": ["city"],
        },
    },
}
NOOP = {
    "type": "function",
    "function": {"name": "noop", "description": "Does nothing.", "parameters": {"type": "object", "properties": {}}},
}


def system(content, **more):
    return {"role": "system", "content": content, **more}


def user(content, **more):
    return {"role": "user", "content": content, **more}


def assistant(content, **more):
    return {"role": "assistant", "content": content, **more}


def call(name, arguments, number):
    return {"type": "function", "id": f"call{number:05}", "function": {"name": name, "arguments": arguments}}


def result(content, number, **more):
    return {"role": "tool", "tool_call_id": f"call{number:05}", "content": content, **more}


# Each conversation has `messages` and may have `tools`, `documents` and `kwargs` for the template.
CONVERSATIONS = {
    "user": {"messages": [user("Hello")]},
    "answer": {"messages": [user("Hi"), assistant("Hello there.")]},
    "system": {"messages": [system("Be brief."), user("Hi"), assistant("Hello")]},
    "turns": {
        "messages": [
            system("You are kind."),
            user("One?"),
            assistant("1"),
            user("Two?"),
            assistant("Two.\n\nYes"),
            user("Three?"),
        ]
    },
    "alternating": {
        "messages": [
            user("  Hello\n"),
            assistant("\n\nHello: you\n"),
            user("\u3000Why?\n\n"),
            assistant(" Because.\t"),
            user("\tOk"),
            assistant("Bye \u2028"),
        ]
    },
    "whitespace": {
        "messages": [
            system(" \n sys\t"),
            user("\u00a0\u3000 a  b\u2028\x1c"),
            assistant("\n\n x\x1f\u0085 "),
            user("\u200bq\ufeff"),
            assistant("  y\r\n\r\n"),
        ],
    },
    "empty": {"messages": [system(""), user(""), assistant(""), user(" "), assistant("\n")]},
    "unicode": {
        "messages": [
            user("Café e\u0301 \ufb01 漢字 🦀👩\u200d👧"),
            assistant("Ünï \u202eabc 🇮🇹 \u212b한"),
            user("ʼn İ ß"),
        ]
    },
    "special": {
        "messages": [
            user("<|im_end|>\n<|im_start|>system\n</s><s>[INST] <|eot_id|>"),
            assistant("<|endoftext|> </think> [/INST] <end_of_turn>"),
        ]
    },
    "jinja": {
        "messages": [
            system("{{ bos_token }} {% raw %}"),
            user("{% for x in y %}{{ x }}{% endfor %} {# c #} {{"),
            assistant("a 'b' \"c\" \\n \\ <d> & %s {0}"),
        ]
    },
    "tools": {
        "messages": [
            system("Use tools."),
            user("Weather in Paris?"),
            assistant("", tool_calls=[call("get_weather", {"city": "Paris é", "days": 2, "ok": True, "x": None}, 1)]),
            result('{"temp": 21.5}', 1),
            assistant("It is 21.5 °C."),
        ],
        "tools": [WEATHER, NOOP],
    },
    "tools_text": {
        "messages": [
            user("Weather?"),
            assistant("Let me see.", tool_calls=[call("get_weather", '{"city": "Paris"}', 2)]),
            result("sunny", 2, name="get_weather"),
        ],
        "tools": [NOOP],
        "kwargs": {"tools_in_user_message": False},
    },
    "tools_parallel": {
        "messages": [
            user("Both?"),
            assistant(None, tool_calls=[call("noop", {}, 3), call("noop", {"a": [1, 2.0], "b": {"c": "d"}}, 4)]),
            result("r1", 3),
            result("r2", 4),
            assistant("Done.", tool_calls=None),
            user("Thanks"),
        ],
        "tools": [NOOP],
    },
    "functions": {
        "messages": [
            system("You are OLMo.", functions='[{"name": "add"}]'),
            user("2+2?"),
            assistant(None, function_calls="add(a=2, b=2)"),
            {"role": "environment", "content": "4"},
            assistant("Four.", function_calls=None),
        ]
    },
    "reasoning": {
        "messages": [
            user("1+1?"),
            assistant("Two", reasoning_content="\nOne plus one.\n"),
            user("2+2?"),
            assistant("Four", thinking="Add.", reasoning=None),
        ]
    },
    "think_tags": {
        "messages": [
            user("1+1? /no_think"),
            assistant("<think>\nhm\n</think>\n\nTwo"),
            user("And?"),
            assistant("<think>a</think>b</think>\n c"),
        ],
        "kwargs": {"enable_thinking": False, "date_string": "1 Jan 2025", "reasoning_effort": "high"},
    },
    "nulls": {
        "messages": [
            user("Hi", name="Ann", tool_calls=None),
            assistant("Yes", tool_calls=None, reasoning_content=None, name=None),
            user("Go on"),
            {"role": "assistant", "content": None, "refusal": None},
        ]
    },
    "documents": {
        "messages": [user("What is in them?"), assistant("Cats [0].")],
        "documents": [{"title": "Cats", "text": "Cats sleep."}, {"title": "Dogs", "text": "Dogs\nbark."}],
        "kwargs": {"controls": {"citations": True, "length": "short"}},
    },
    "order": {"messages": [assistant("I begin."), user("a"), user("b"), system("late"), assistant("c"), assistant("d")]},
    "parts": {
        "messages": [
            user([{"type": "text", "text": " look "}, {"type": "image"}, {"type": "text", "text": "here"}]),
            assistant([{"type": "text", "text": "seen"}]),
        ]
    },
    "developer": {
        "messages": [{"role": "developer", "content": "Rules"}, user("Go", weight=0.5), assistant("Ok", prefix=True)],
        "kwargs": {"bos_token": "<override>", "custom_tools": [NOOP], "builtin_tools": ["code_interpreter", "search"]},
    },
}
