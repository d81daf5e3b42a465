"""PyTorch's side of scripts/bench/trainer: whole training steps of a pre-norm RMSNorm/SwiGLU decoder in f32 on the CPU.

Prints one line of JSON: {"tokens_per_second": ..., "step_ms": ..., "losses": [first, last]}. Needs torch; see scripts/bench/trainer.
"""

import argparse
import json
import statistics
import time

import torch
import torch.nn.functional as F
from torch import nn


def rms_norm(x, weight):
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * weight


class Block(nn.Module):
    def __init__(self, shape):
        super().__init__()
        d, mlp, self.heads = shape.d_model, shape.mlp, shape.heads
        linear = lambda inner, out: nn.Linear(inner, out, bias=False)
        self.attn_norm, self.ff_norm = nn.Parameter(torch.ones(d)), nn.Parameter(torch.ones(d))
        self.qkv, self.out = linear(d, 3 * d), linear(d, d)
        self.up_gate, self.down = linear(d, 2 * mlp), linear(mlp, d)

    def forward(self, x, cos, sin):
        batch, sequence, d = x.shape
        q, k, v = (
            part.view(batch, sequence, self.heads, -1).transpose(1, 2)
            for part in self.qkv(rms_norm(x, self.attn_norm)).chunk(3, -1)
        )

        def rotate(x):
            a, b = x.chunk(2, -1)
            return x * cos + torch.cat([-b, a], -1) * sin

        attended = F.scaled_dot_product_attention(rotate(q), rotate(k), v, is_causal=True)
        x = x + self.out(attended.transpose(1, 2).reshape(batch, sequence, d))
        up, gate = self.up_gate(rms_norm(x, self.ff_norm)).chunk(2, -1)
        return x + self.down(F.silu(gate) * up)


class Decoder(nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.embedding = nn.Embedding(shape.vocab, shape.d_model)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.norm = nn.Parameter(torch.ones(shape.d_model))
        self.head = nn.Linear(shape.d_model, shape.vocab, bias=False)
        for parameter in self.parameters():
            if parameter.dim() == 2:
                nn.init.normal_(parameter, std=0.02)

    def forward(self, ids, cos, sin):
        x = self.embedding(ids)
        for block in self.blocks:
            x = block(x, cos, sin)
        logits = self.head(rms_norm(x, self.norm))[:, :-1]
        return F.cross_entropy(logits.reshape(-1, logits.shape[-1]), ids[:, 1:].reshape(-1))


def main():
    parser = argparse.ArgumentParser()
    for name in ["d_model", "layers", "heads", "mlp", "sequence", "batch", "vocab", "steps", "threads"]:
        parser.add_argument("--" + name, type=int, required=True)
    parser.add_argument("--compile", action="store_true")
    shape = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(shape.threads)
    model = Decoder(shape)
    head = shape.d_model // shape.heads
    inverse = 10000.0 ** (-torch.arange(0, head, 2).float() / head)
    angles = torch.outer(torch.arange(shape.sequence).float(), inverse)
    angles = torch.cat([angles, angles], -1)
    cos, sin = angles.cos(), angles.sin()
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=1e-3, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1, fused=True
    )
    run = torch.compile(model) if shape.compile else model
    seconds, losses = [], []
    for step in range(shape.steps):
        places = torch.arange(shape.batch * shape.sequence)
        ids = ((places * places + 31 * places + 7 * step) % min(shape.vocab, 61)).view(shape.batch, shape.sequence)
        start = time.perf_counter()
        loss = run(ids, cos, sin)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
        seconds.append(time.perf_counter() - start)
    median = statistics.median(seconds[shape.steps // 3 :])
    tokens = shape.batch * shape.sequence
    print(
        json.dumps(
            {
                "tokens_per_second": tokens / median,
                "step_ms": median * 1e3,
                "losses": [losses[0], losses[-1]],
                "torch": torch.__version__,
            }
        )
    )


if __name__ == "__main__":
    main()
