#!/usr/bin/env python3
"""Makes crates/olmo-pickle/tests/fixtures: small files of torch.save, PyTorch's distributed checkpoint, and OLMo-core.

Pinned: python 3.11, torch 2.11.0, ai2-olmo-core 3.0.0, numpy 2.4.6 (pip install of exactly these), CPU.
Run from the repository's root:  python scripts/goldens/checkpoints.py

`expected.json` has, for each folder or file and each tensor in it, type, shape and SHA-256 of the elements.
"""

import collections
import hashlib
import json
import os
import pathlib
import shutil

import numpy as np
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
import torch.multiprocessing as mp
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

FOLDER = pathlib.Path("crates/olmo-pickle/tests/fixtures")
RANKS = 2


def describe(tensor):
    tensor = tensor.detach().contiguous()
    raw = bytes(tensor.reshape(-1).view(torch.uint8).numpy()) if tensor.numel() else b""
    name = str(tensor.dtype).removeprefix("torch.")
    return {"dtype": name, "shape": list(tensor.shape), "sha256": hashlib.sha256(raw).hexdigest()}


def state():
    """What a model's state dict can have: all kinds of views and element types."""
    random = torch.Generator().manual_seed(7)
    base = torch.randn(6, 5, generator=random)
    result = collections.OrderedDict(
        whole=base,
        rows=base[2:4],
        transposed=base.t(),
        column=base[:, 3],
        parameter=torch.nn.Parameter(torch.randn(3, generator=random)),
        half=base.half(),
        bfloat16=base.bfloat16(),
        float8=base.to(torch.float8_e4m3fn),
        uint16=torch.arange(9).to(torch.uint16),
        int64=torch.arange(4),
        bool=torch.tensor([True, False]),
        scalar=torch.tensor(2.5),
        empty=torch.zeros(0, 3),
    )
    result._metadata = collections.OrderedDict({"": {"version": 1}})
    return result


def trainer_state():
    """What a trainer remembers beside its tensors."""
    numbers = np.random.Generator(np.random.PCG64(3))
    numbers.random(5)
    return {
        "epoch": 1,
        "global_step": 12,
        "loss": np.float64(1.25),
        "count": np.int64(-3),
        "checkpoints": [pathlib.PosixPath("/runs/a/step10"), pathlib.PosixPath("step12")],
        "rng": {
            "python": (3, (1, 2**32 - 1, 2**31), None),
            "numpy": ("MT19937", np.arange(5, dtype=np.uint32), 624, 0, 0.0),
            "torch": torch.arange(16, dtype=torch.uint8),
            "generator": numbers.bit_generator.state,
        },
        "names": {"a"},
        "order": collections.OrderedDict(x=1.5),
        "device": torch.device("cpu"),
        "size": torch.Size([2, 3]),
    }


def weights(seed=11):
    random = torch.Generator().manual_seed(seed)
    return {
        "model": {
            "embeddings.weight": torch.randn(5, 4, generator=random),
            "blocks.0.norm.weight": torch.randn(3, generator=random).bfloat16(),
            "step": torch.tensor(4.0),
        },
        "optim": {"param_groups.embeddings.weight.lr": 0.0125, "param_groups.embeddings.weight.betas": (0.9, 0.95)},
    }


def write_olmo_core(rank, folder):
    from olmo_core.distributed.checkpoint import save_state_dict

    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="29671", RANK=str(rank), WORLD_SIZE=str(RANKS), LOCAL_RANK=str(rank))
    dist.init_process_group("gloo", rank=rank, world_size=RANKS)
    mesh = init_device_mesh("cpu", (RANKS,))
    value = weights()
    for name in ("embeddings.weight", "blocks.0.norm.weight"):
        value["model"][name] = distribute_tensor(value["model"][name], mesh, [Shard(0)])
    save_state_dict(folder, value, save_overwrite=True, thread_count=1, process_count=1)
    dist.destroy_process_group()


def main():
    torch.set_num_threads(1)
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    expected = {"state.pt": {name: describe(tensor) for name, tensor in state().items()}}
    torch.save(state(), FOLDER / "state.pt")
    torch.save(trainer_state(), FOLDER / "trainer.pt")
    torch.save({"a": torch.arange(3)}, FOLDER / "before_1_6.pt", _use_new_zipfile_serialization=False)
    flat = {f"model.{name}": tensor for name, tensor in weights()["model"].items()}
    expected["olmo_core"] = expected["pytorch"] = {name: describe(tensor) for name, tensor in flat.items()}
    mp.spawn(write_olmo_core, (str(FOLDER / "olmo_core"),), nprocs=RANKS)
    dcp.save(weights(), checkpoint_id=FOLDER / "pytorch", no_dist=True)
    (FOLDER / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")
    for path in sorted(FOLDER.rglob("*")):
        print(path, path.stat().st_size if path.is_file() else "")


if __name__ == "__main__":
    main()
