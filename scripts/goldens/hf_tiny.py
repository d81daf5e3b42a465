#!/usr/bin/env python3
"""Makes tests/fixtures/hf_tiny: tiny random models saved by `transformers`, with their logits and greedy continuations.

Pinned: python 3.11, torch 2.11.0, transformers 5.23.0, safetensors 0.8.0 (pip install of exactly these), CPU, float32.
Run from the repository's root:  python scripts/goldens/hf_tiny.py
Check an export instead:         python scripts/goldens/hf_tiny.py --compare FOLDER CASE   (prints the largest difference of logits)
"""

import json
import pathlib
import sys

import torch
import transformers
from transformers import Olmo2Config, Olmo2ForCausalLM, Olmo3Config, Olmo3ForCausalLM, OlmoConfig, OlmoForCausalLM

FOLDER = pathlib.Path("tests/fixtures/hf_tiny")
SHAPE = dict(
    vocab_size=96,
    hidden_size=32,
    intermediate_size=40,
    num_hidden_layers=2,
    num_attention_heads=4,
    max_position_embeddings=128,
    pad_token_id=1,
    eos_token_id=0,
    bos_token_id=None,
)
MODELS = {
    # Multi-head and grouped keys; a clamp that bites; head tied and not.
    "olmo": (OlmoForCausalLM, OlmoConfig(**SHAPE, clip_qkv=0.6, tie_word_embeddings=True)),
    "olmo2": (Olmo2ForCausalLM, Olmo2Config(**SHAPE, rms_norm_eps=1e-6, tie_word_embeddings=False)),
    "olmo2_gqa": (
        Olmo2ForCausalLM,
        Olmo2Config(
            **SHAPE,
            num_key_value_heads=2,
            rms_norm_eps=1e-6,
            tie_word_embeddings=False,
            rope_parameters={"rope_type": "default", "rope_theta": 500000.0},
        ),
    ),
    # Windows shorter than the prompt, with a block that sees everything among them.
    "olmo3": (
        Olmo3ForCausalLM,
        Olmo3Config(
            **{**SHAPE, "num_hidden_layers": 4},
            num_key_value_heads=2,
            rms_norm_eps=1e-6,
            tie_word_embeddings=False,
            sliding_window=5,
            layer_types=["sliding_attention", "sliding_attention", "full_attention", "sliding_attention"],
            rope_parameters={"rope_type": "default", "rope_theta": 500000.0},
        ),
    ),
}
BATCH, LENGTH, NEW = 2, 11, 24


def input_ids():
    return torch.tensor([[(37 * b + 11 * t + t * t % 7) % 94 + 2 for t in range(LENGTH)] for b in range(BATCH)])


def randomise(model, generator):
    """Weights far from their initialisation, so that every one of them matters; norm weights around 1."""
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            values = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(1 + 0.2 * values if "norm" in name else 0.25 * values)


def greedy(model, ids):
    """The most likely next token, again and again, and the smallest lead of a chosen token over the next best."""
    lead = float("inf")
    for _ in range(NEW):
        logits = model(ids).logits[:, -1]
        best = logits.topk(2).values
        lead = min(lead, (best[:, 0] - best[:, 1]).min().item())
        ids = torch.cat([ids, logits.argmax(-1, keepdim=True)], 1)
    return ids[:, LENGTH:].tolist(), lead


@torch.no_grad()
def make():
    cases = {}
    for name, (model_class, config) in MODELS.items():
        seed = 0
        while True:  # A near tie would test rounding, not the model.
            model = model_class(config).eval()
            randomise(model, torch.Generator().manual_seed(seed))
            continuation, lead = greedy(model, input_ids())
            if lead > 1e-3:
                break
            seed += 1
        model.save_pretrained(FOLDER / name)
        logits = model(input_ids()).logits
        cases[name] = {
            "seed": seed,
            "input_ids": input_ids().tolist(),
            "logits": [[[float(f"{x:.9g}") for x in place] for place in row] for row in logits.tolist()],
            "greedy": continuation,
        }
    document = {
        "_doc": "made by scripts/goldens/hf_tiny.py; float32 on CPU",
        "versions": {"torch": torch.__version__.split("+")[0], "transformers": transformers.__version__},
        "cases": cases,
    }
    (FOLDER / "cases.json").write_text(json.dumps(document) + "\n")


@torch.no_grad()
def compare(folder, case):
    want = json.loads((FOLDER / "cases.json").read_text())["cases"][case]
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    logits = model(torch.tensor(want["input_ids"])).logits
    print(type(model).__name__, "largest difference", (logits - torch.tensor(want["logits"])).abs().max().item())
    print("greedy equal", greedy(model, torch.tensor(want["input_ids"]))[0] == want["greedy"])


if __name__ == "__main__":
    if sys.argv[1:2] == ["--compare"]:
        compare(*sys.argv[2:4])
    else:
        make()
