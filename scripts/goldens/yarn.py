#!/usr/bin/env python3
"""Makes tests/fixtures/hf_yarn and crates/olmo-ops/tests/fixtures/yarn.json: a tiny random OLMo 3 with YaRN on its blocks
with full attention, its logits and greedy tokens beyond the original context, and tables of frequencies, by `transformers`.

Pinned: python 3.11, torch 2.11.0, transformers 5.23.0, safetensors 0.8.0 (pip install of exactly these), CPU, float32.
Run from the repository's root:  python scripts/goldens/yarn.py
Check an export instead:         python scripts/goldens/yarn.py --compare FOLDER [mixed_logits]   (prints the largest difference of logits)
"""

import copy
import json
import pathlib
import sys

import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import Olmo3Config, Olmo3ForCausalLM
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

FOLDER = pathlib.Path("tests/fixtures/hf_yarn")
TABLES = pathlib.Path("crates/olmo-ops/tests/fixtures/yarn.json")
# 24 queries of width 12 beside a stream of width 32; 2 of the 6 pairs of a head are mixtures.
CONFIG = dict(
    vocab_size=96,
    hidden_size=32,
    intermediate_size=40,
    num_hidden_layers=4,
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=12,
    sliding_window=8,
    max_position_embeddings=128,
    rms_norm_eps=1e-6,
    pad_token_id=1,
    eos_token_id=0,
    bos_token_id=None,
    tie_word_embeddings=False,
)
ROPE = {
    "full_attention": {
        "rope_type": "yarn",
        "rope_theta": 500000.0,
        "factor": 4.0,
        "original_max_position_embeddings": 32,
        "beta_fast": 4.0,
        "beta_slow": 0.03,
        "attention_factor": 1.138629436111989,
    },
    "sliding_attention": {"rope_type": "default", "rope_theta": 500000.0},
}
# The same weights with other windows, and with another base in them.
MIXED = dict(sliding_window=16, layer_types=["full_attention", "sliding_attention", "sliding_attention", "full_attention"])
MIXED_ROPE = {
    "full_attention": {**ROPE["full_attention"], "rope_theta": 20000.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
}
# (head_dim, theta, factor, original length, others)
ROWS = [
    (128, 500000, 8.0, 8192, dict(beta_fast=32, beta_slow=1)),
    (64, 10000, 4.0, 4096, {}),
    (16, 10000, 4.0, 32, dict(beta_fast=4, beta_slow=1)),
    (32, 500000, 2.5, 2048, dict(beta_fast=16, beta_slow=2)),
    (12, 500000, 4.0, 32, dict(beta_fast=4, beta_slow=0.03)),
    # Bounds below 0, at the width of a head, and equal.
    (4, 500000, 4.0, 8, {}),
    (16, 100, 4.0, 2048, {}),
    (8, 100, 4.0, 8192, {}),
]
LENGTH, PROMPT, NEW = 100, 20, 60


def input_ids():
    return torch.tensor([[(11 * t + t * t % 7) % 94 + 2 for t in range(LENGTH)]])


@torch.no_grad()
def make():
    seed = 0
    while True:  # A near tie would test rounding, not the model.
        torch.manual_seed(seed)
        model = Olmo3ForCausalLM(Olmo3Config(**CONFIG, rope_parameters=copy.deepcopy(ROPE))).eval()
        for name, parameter in sorted(model.named_parameters()):
            values = torch.randn(parameter.shape)
            parameter.copy_(1 + 0.2 * values if "norm" in name else 0.2 * values)
        ids, lead = input_ids()[:, :PROMPT], float("inf")
        for _ in range(NEW):
            logits = model(ids).logits[:, -1]
            best = logits.topk(2).values
            lead = min(lead, (best[:, 0] - best[:, 1]).min().item())
            ids = torch.cat([ids, logits.argmax(-1, keepdim=True)], 1)
        if lead > 1e-3:
            break
        seed += 1
    model.save_pretrained(FOLDER)
    golden = {"input_ids": input_ids().to(torch.int32), "logits": model(input_ids()).logits.contiguous(), "greedy": ids.to(torch.int32)}
    mixed = Olmo3ForCausalLM(Olmo3Config(**{**CONFIG, **MIXED}, rope_parameters=copy.deepcopy(MIXED_ROPE))).eval()
    mixed.load_state_dict(model.state_dict())
    golden["mixed_logits"] = mixed(input_ids()).logits.contiguous()
    save_file(golden, FOLDER / "golden.safetensors")
    # What a wrong reader would be off by.
    for what, rope in [
        ("no YaRN", {"full_attention": ROPE["sliding_attention"]}),
        ("sliding windows too", {"sliding_attention": ROPE["full_attention"]}),
        ("no attention factor", {"full_attention": {**ROPE["full_attention"], "attention_factor": 1.0}}),
    ]:
        wrong = Olmo3ForCausalLM(Olmo3Config(**CONFIG, rope_parameters=copy.deepcopy({**ROPE, **rope}))).eval()
        wrong.load_state_dict(model.state_dict())
        print(f"{what}: off by {(wrong(input_ids()).logits - golden['logits']).abs().max().item():.2g}")
    exact = copy.deepcopy(model).double()
    print(f"float64: {(exact(input_ids()).logits.float() - golden['logits']).abs().max().item():.2g}; seed {seed}, lead {lead:.2g}")
    rows = []
    for head_dim, theta, factor, original, others in ROWS:
        rope = {"rope_type": "yarn", "rope_theta": float(theta), "factor": factor, "original_max_position_embeddings": original, **others}
        config = Olmo3Config(hidden_size=head_dim, num_attention_heads=1, num_hidden_layers=1, layer_types=["full_attention"], rope_parameters={"full_attention": rope})
        frequencies, attention_factor = ROPE_INIT_FUNCTIONS["yarn"](config, torch.device("cpu"), layer_type="full_attention")
        rows.append(
            {
                "head_dim": head_dim,
                "theta": float(theta),
                "factor": factor,
                "old_context_len": original,
                "beta_fast": float(others.get("beta_fast", 32)),
                "beta_slow": float(others.get("beta_slow", 1)),
                "attention_factor": attention_factor,
                "frequencies": [float(f"{x:.9g}") for x in frequencies.tolist()],
            }
        )
    document = {"_doc": "made by scripts/goldens/yarn.py", "transformers": transformers.__version__, "rows": rows}
    TABLES.write_text(json.dumps(document) + "\n")


@torch.no_grad()
def compare(folder, name):
    golden = load_file(FOLDER / "golden.safetensors")
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    difference = (model(golden["input_ids"].long()).logits - golden[name]).abs().max().item()
    print(f"{type(model).__name__}: largest difference {difference}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--compare"]:
        compare(sys.argv[2], *(sys.argv[3:] or ["logits"]))
    else:
        make()
