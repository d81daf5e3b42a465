#!/usr/bin/env python3
"""Compares the order in which an epoch visits rows with numpy's, which is OLMo's.

OLMo shuffles `arange(N, dtype=uint32)` by `numpy.random.Generator(PCG64(seed + epoch)).shuffle`. This does the same for many numbers of
rows, seeds and epochs and compares every number with what `olmo-pipe data order` writes. Needs numpy (checked with 1.26.4).

    python scripts/check-order.py [--program target/release/olmo-pipe]
"""

import argparse
import pathlib
import random
import subprocess
import sys
import tempfile

import numpy


def theirs(rows, seed, epoch):
    order = numpy.arange(rows, dtype=numpy.uint32)
    numpy.random.Generator(numpy.random.PCG64(seed=seed + epoch)).shuffle(order)
    return order


def ours(program, rows, seed, epoch, path):
    command = [program, "data", "order", "--rows", str(rows), "--seed", str(seed), "--epoch", str(epoch), "--raw", path]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return numpy.fromfile(path, dtype="<u4")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--program", default="target/release/olmo-pipe")
    arguments = parser.parse_args()
    rng = random.Random(0)
    cases = [(rows, seed, epoch) for rows in [0, 1, 2, 3, 16, 1000] for seed in [0, 42, 6198] for epoch in [0, 1]]
    cases += [(65_535, 6198, 0), (65_536, 6198, 0), (65_537, 6198, 3), (5_000_000, 6198, 1)]
    # Seeds of more than 32 bits fill a second word of numpy's SeedSequence.
    cases += [(100, 2**32 - 1, 1), (100, 2**32, 0), (100, 2**63 + 5, 0), (100, 2**64 - 1, 0)]
    cases += [(rng.randrange(1, 20_000), rng.randrange(2 ** rng.randrange(1, 64)), rng.randrange(5)) for _ in range(60)]
    different = 0
    with tempfile.TemporaryDirectory() as folder:
        path = str(pathlib.Path(folder) / "order.npy")
        for rows, seed, epoch in cases:
            if not numpy.array_equal(theirs(rows, seed, epoch), ours(arguments.program, rows, seed, epoch, path)):
                print(f"DIFFERENT: {rows} rows, seed {seed}, epoch {epoch}")
                different += 1
    print(f"numpy {numpy.__version__}: {len(cases) - different} of {len(cases)} orders are the same")
    sys.exit(1 if different else 0)


if __name__ == "__main__":
    main()
