"""Gradients of OLMo's blocks by torch.autograd in float64, for crates/olmo-ops/tests/autograd.rs.

    VENV/bin/python scripts/goldens/block_autograd.py > crates/olmo-ops/tests/fixtures/block_autograd.json

torch 2.11.0. Everything that goes in follows from a closed formula that the test repeats, rounded to float32; only results are stored.
The block is written from the definition (fused projections in OLMo's order: queries, keys, values; up, gate), not from our code.
"""

import json
import sys

import torch

CASES = {
    "olmo1": dict(d=16, heads=4, kv=4, mlp=12, batch=2, sequence=7, norm="layer", after=False, qk=False, affine=False, clip=0.8),
    "olmo2": dict(d=16, heads=4, kv=2, mlp=10, batch=2, sequence=9, norm="rms", after=True, qk=True, affine=True),
    "olmo3": dict(d=12, heads=2, kv=1, mlp=9, batch=2, sequence=11, norm="rms", after=True, qk=True, affine=True, window=4,
                  documents=[[0, 0, 0, 3, 3, 3, 3, 3, 8, 8, 8], [0, 0, 0, 0, 0, 0, 0, 0, 0, 9, 9]]),
    "one_token": dict(d=8, heads=2, kv=2, mlp=5, batch=1, sequence=1, norm="rms", after=True, qk=True, affine=True),
}


def numbers(shape, seed, scale, offset=0.0):
    count = 1
    for size in shape:
        count *= size
    index = torch.arange(1, count + 1, dtype=torch.float64)
    return (offset + scale * torch.sin(0.7 * index + 1.3 * seed)).float().double().reshape(shape)


def run(case):
    d, heads, kv_heads, mlp = case["d"], case["heads"], case["kv"], case["mlp"]
    batch, sequence, head = case["batch"], case["sequence"], d // heads
    kv = kv_heads * head
    shapes = [(batch, sequence, d), (d + 2 * kv, d), (d, d), (2 * mlp, d), (d, mlp)]
    shapes += [(d,), (d,)] if case["affine"] else []
    shapes += [(d,), (kv,)] if case["qk"] else []
    inputs = []
    for seed, shape in enumerate(shapes):
        scale = {0: 1.5}.get(seed, 0.3 if len(shape) == 1 else 1.5 / d**0.5)
        inputs.append(numbers(shape, seed, scale, 1.0 if len(shape) == 1 else 0.0).requires_grad_())
    x, att_proj, attn_out, ff_proj, ff_out, *rest = inputs
    attn_norm, ff_norm = (rest.pop(0), rest.pop(0)) if case["affine"] else (None, None)
    q_norm, k_norm = rest if case["qk"] else (None, None)
    eps = 1e-5 if case["norm"] == "layer" else 1e-6

    def norm(x, weight):
        if case["norm"] == "layer":
            return torch.nn.functional.layer_norm(x, x.shape[-1:], weight, None, eps)
        y = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps)
        return y if weight is None else y * weight

    inverse = 1.0 / 10000.0 ** (torch.arange(0, head, 2, dtype=torch.float64) / head)
    angles = torch.outer(torch.arange(sequence, dtype=torch.float64), inverse)
    cos, sin = torch.cat([angles.cos()] * 2, -1), torch.cat([angles.sin()] * 2, -1)

    def rotate(x):
        a, b = x.chunk(2, -1)
        return x * cos + torch.cat([-b, a], -1) * sin

    place = torch.arange(sequence)
    starts = torch.tensor(case.get("documents") or [[0] * sequence] * batch)
    window = case.get("window", sequence)
    first = torch.maximum(starts, (place - window + 1).clamp(min=0))
    sees = (place[None, None, :] <= place[None, :, None]) & (place[None, None, :] >= first[:, :, None])

    def attention(x):
        qkv = x @ att_proj.T
        if "clip" in case:
            qkv = qkv.clamp(-case["clip"], case["clip"])
        q, k, v = qkv.split([d, kv, kv], -1)
        if case["qk"]:
            q, k = norm(q, q_norm), norm(k, k_norm)
        split = lambda x, heads: x.view(batch, sequence, heads, head).transpose(1, 2)
        q, k, v = rotate(split(q, heads)), rotate(split(k, kv_heads)), split(v, kv_heads)
        k, v = (x.repeat_interleave(heads // kv_heads, 1) for x in (k, v))
        scores = (q @ k.transpose(-1, -2) / head**0.5).masked_fill(~sees[:, None], float("-inf"))
        return (scores.softmax(-1) @ v).transpose(1, 2).reshape(batch, sequence, d) @ attn_out.T

    def feed_forward(x):
        up, gate = (x @ ff_proj.T).chunk(2, -1)
        return (torch.nn.functional.silu(gate) * up) @ ff_out.T

    if case["after"]:
        x = x + norm(attention(x), attn_norm)
        y = x + norm(feed_forward(x), ff_norm)
    else:
        x = x + attention(norm(x, attn_norm))
        y = x + feed_forward(norm(x, ff_norm))
    (y * numbers(y.shape, 99, 1.0)).sum().backward()
    short = lambda tensor: [float(f"{value:.9g}") for value in tensor.flatten().tolist()]
    return {"config": case, "output": short(y.detach()), "gradients": [short(x.grad) for x in inputs]}


def main():
    made = {name: run(case) for name, case in CASES.items()}
    json.dump({"torch": torch.__version__, "cases": made}, sys.stdout, separators=(",", ":"))
    print()


if __name__ == "__main__":
    main()
