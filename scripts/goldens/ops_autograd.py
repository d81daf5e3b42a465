"""Gradients of the smaller operations by torch.autograd in float64, for crates/olmo-ops/tests/small_autograd.rs.

    VENV/bin/python scripts/goldens/ops_autograd.py > crates/olmo-ops/tests/fixtures/ops_autograd.json

torch 2.11.0. Inputs follow from the closed formula of block_autograd.py, rounded to float32; only results are stored.
"""

import json
import sys

import torch
import torch.nn.functional as F

from block_autograd import numbers

IDS = [3, 0, 3, 6, 3, 0]
IGNORED = -100
TARGETS = [4, IGNORED, 8, 0, IGNORED, 4]


def short(tensor):
    return [float(f"{value:.12g}") for value in tensor.flatten().tolist()]


def result(output, inputs):
    return {"output": short(output.detach()), "gradients": [short(x.grad) for x in inputs]}


def norm(kind, rows, width, affine):
    x = numbers((rows, width), 0, 1.5).requires_grad_()
    weight = numbers((width,), 1, 0.3, 1.0).requires_grad_() if affine else None
    if kind == "layer":
        y = F.layer_norm(x, (width,), weight, None, 1e-5)
    else:
        y = F.rms_norm(x, (width,), weight, 1e-5)
    (y * numbers(y.shape, 99, 1.0)).sum().backward()
    return result(y, [x] + ([weight] if affine else []))


def embedding():
    weight = numbers((7, 5), 0, 1.0).requires_grad_()
    y = F.embedding(torch.tensor(IDS), weight)
    (y * numbers(y.shape, 99, 1.0)).sum().backward()
    return result(y, [weight])


def head(z_loss, denominator):
    hidden, weight = numbers((6, 5), 0, 1.5).requires_grad_(), numbers((9, 5), 1, 1.0).requires_grad_()
    logits, targets = hidden @ weight.T, torch.tensor(TARGETS)
    counts = (targets != IGNORED).double()
    nll = F.cross_entropy(logits, targets, ignore_index=IGNORED, reduction="sum")
    loss = (nll + z_loss * (logits.logsumexp(-1).pow(2) * counts).sum()) / denominator
    loss.backward()
    return result(loss, [hidden, weight])


def main():
    made = {
        "norm/rms/5/7/true": norm("rms", 5, 7, True),
        "norm/rms/1/16/false": norm("rms", 1, 16, False),
        "norm/layer/5/7/true": norm("layer", 5, 7, True),
        "norm/layer/3/33/false": norm("layer", 3, 33, False),
        "embedding": embedding(),
        "head/0.01": head(0.01, 4.0),
        "head/0": head(0.0, 4.0),
    }
    json.dump({"torch": torch.__version__, "cases": made}, sys.stdout, separators=(",", ":"))
    print()


if __name__ == "__main__":
    main()
