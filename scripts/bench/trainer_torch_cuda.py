"""PyTorch's side of the GPU rows: whole training steps of an OLMo decoder, bf16 autocast around fp32 weights, fused AdamW.

Prints one line of JSON: {"tokens_per_second": ..., "step_ms": ..., "losses": [first, last], "steps": ..., "peak_allocated": bytes or null}.
Needs torch; see scripts/bench/trainer --folder. On the CPU (--device cpu) the same steps in f32, to try the script.
"""

import argparse
import json
import statistics
import time

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint


class RmsNorm(nn.Module):
    """Of OLMo 2: in f32, with a weight."""

    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x):
        wide = x.float()
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6)
        return (self.weight * wide).to(x.dtype)


class LayerNorm(nn.Module):
    """Of OLMo 1: in f32, without a weight."""

    def __init__(self, width):
        super().__init__()
        self.width = width

    def forward(self, x):
        return F.layer_norm(x.float(), (self.width,), eps=1e-5).to(x.dtype)


def rotated(heads, cos, sin):
    wide = heads.float()
    a, b = wide.chunk(2, -1)
    return (wide * cos + torch.cat([-b, a], -1) * sin).to(heads.dtype)


class Block(nn.Module):
    def __init__(self, shape):
        super().__init__()
        d, mlp, self.heads, self.after = shape.d_model, shape.mlp, shape.heads, shape.arch == "olmo2"
        norm = RmsNorm if self.after else LayerNorm
        linear = lambda inner, out: nn.Linear(inner, out, bias=False)
        self.query, self.key, self.value, self.out = linear(d, d), linear(d, d), linear(d, d), linear(d, d)
        self.gate, self.up, self.down = linear(d, mlp), linear(d, mlp), linear(mlp, d)
        self.attention_norm, self.mlp_norm = norm(d), norm(d)
        self.query_norm, self.key_norm = (norm(d), norm(d)) if self.after else (nn.Identity(), nn.Identity())

    def attention(self, x, cos, sin):
        batch, sequence, d = x.shape
        split = lambda y: y.view(batch, sequence, self.heads, -1).transpose(1, 2)
        query = rotated(split(self.query_norm(self.query(x))), cos, sin)
        key = rotated(split(self.key_norm(self.key(x))), cos, sin)
        attended = F.scaled_dot_product_attention(query, key, split(self.value(x)), is_causal=True)
        return self.out(attended.transpose(1, 2).reshape(batch, sequence, d))

    def mlp(self, x):
        return self.down(F.silu(self.gate(x)) * self.up(x))

    def forward(self, x, cos, sin):
        if self.after:
            x = x + self.attention_norm(self.attention(x, cos, sin))
            return x + self.mlp_norm(self.mlp(x))
        x = x + self.attention(self.attention_norm(x), cos, sin)
        return x + self.mlp(self.mlp_norm(x))


class Decoder(nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.embedding = nn.Embedding(shape.vocab, shape.d_model)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.norm = (RmsNorm if shape.arch == "olmo2" else LayerNorm)(shape.d_model)
        self.head = nn.Linear(shape.d_model, shape.vocab, bias=False)
        self.recompute = shape.recompute
        if shape.arch == "olmo1":
            self.head.weight = self.embedding.weight

    def forward(self, ids, targets, cos, sin):
        x = self.embedding(ids)
        for block in self.blocks:
            x = checkpoint(block, x, cos, sin, use_reentrant=False) if self.recompute else block(x, cos, sin)
        logits = self.head(self.norm(x)).float()
        return F.cross_entropy(logits.view(-1, logits.shape[-1]), targets.reshape(-1))


def tables(shape, device):
    head = shape.d_model // shape.heads
    theta = 1e4 if shape.arch == "olmo1" else 5e5
    inverse = theta ** (-torch.arange(0, head, 2).float() / head)
    angles = torch.outer(torch.arange(shape.sequence).float(), inverse)
    angles = torch.cat([angles, angles], -1)
    return angles.cos().to(device), angles.sin().to(device)


def main():
    parser = argparse.ArgumentParser()
    for name in ["d_model", "layers", "heads", "mlp", "sequence", "batch", "vocab", "steps"]:
        parser.add_argument("--" + name, type=int, required=True)
    parser.add_argument("--arch", choices=["olmo1", "olmo2"], required=True)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--seconds", type=float, default=1e9, help="stop after the step in which these have passed")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--recompute", action="store_true", help="keep the blocks' inputs alone")
    shape = parser.parse_args()
    cuda = shape.device.startswith("cuda")
    torch.manual_seed(0)
    with torch.device(shape.device):
        model = Decoder(shape)
    for parameter in model.parameters():
        if parameter.dim() == 2:
            nn.init.normal_(parameter, std=0.02)
    cos, sin = tables(shape, shape.device)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=1e-4, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1, fused=True
    )
    run = torch.compile(model) if shape.compile else model
    random = torch.Generator().manual_seed(1)
    wait = torch.cuda.synchronize if cuda else lambda: None
    seconds, losses, began = [], [], None
    for _ in range(shape.steps):
        ids = torch.randint(0, shape.vocab, (shape.batch, shape.sequence + 1), generator=random).to(shape.device)
        wait()
        start = time.perf_counter()
        with torch.autocast(shape.device, dtype=torch.bfloat16, enabled=cuda):
            loss = run(ids[:, :-1], ids[:, 1:], cos, sin)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=True)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
        wait()
        seconds.append(time.perf_counter() - start)
        # The first step compiles: it does not count.
        began = began or time.perf_counter()
        if time.perf_counter() - began > shape.seconds and len(seconds) > 3:
            break
    median = statistics.median(seconds[len(seconds) // 3 :])
    result = {
        "tokens_per_second": shape.batch * shape.sequence / median,
        "step_ms": median * 1e3,
        "losses": [losses[0], losses[-1]],
        "steps": len(seconds),
        "peak_allocated": torch.cuda.max_memory_allocated() if cuda else None,
        "torch": torch.__version__,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
