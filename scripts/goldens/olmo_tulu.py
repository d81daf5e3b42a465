#!/usr/bin/env python3
"""Runs OLMo's own `scripts/prepare_tulu_data.py` on a local file of conversations.

The script has the hub's data set by name and imports OLMo's configs, which import torch and clients of several clouds. None of
these is used for tokenising: `load_dataset` reads the given file instead, and what is not installed is a stand-in that fails
when it is called. The tokenizer wrapper (`olmo/tokenizer.py`) and the script are OLMo's, unchanged.

Pinned: python 3.11, ai2-olmo's repository at v0.6.0 or main, tokenizers 0.22.2, datasets 3.6.0, numpy 1.26.4, omegaconf 2.3.0, rich, importlib_resources.
    python scripts/goldens/olmo_tulu.py OLMO_CLONE CHATS.jsonl OUT --tokenizer FILE [--eos 50279 --pad 1 --seq-len 2048 --num-proc 2]
"""

import argparse
import enum
import importlib.abc
import importlib.machinery
import json
import os
import pathlib
import runpy
import sys
import types

MISSING = ("torch", "boto3", "botocore", "google", "cached_path")


class Named(type):
    """Has every attribute: its name."""

    def __getattr__(cls, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return name


class StandIn(types.ModuleType):
    """A module whose every name is a class that can be inherited from and not used."""

    __path__ = []

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return Named(name, (), {})


class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, fullname, path=None, target=None):
        if fullname.split(".")[0] in MISSING:
            return importlib.machinery.ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec):
        return StandIn(spec.name)

    def exec_module(self, module):
        pass


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("olmo", type=pathlib.Path)
    parser.add_argument("chats", type=pathlib.Path)
    parser.add_argument("out")
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--eos", default="50279")
    parser.add_argument("--pad", default="1")
    parser.add_argument("--seq-len", default="2048")
    parser.add_argument("--num-proc", default="2")
    arguments = parser.parse_args()

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    sys.path.insert(0, str(arguments.olmo))
    sys.meta_path.append(Finder())
    import datasets

    rows = [json.loads(line) for line in arguments.chats.read_text().split("\n") if line]
    datasets.load_dataset = lambda name, split: datasets.Dataset.from_list(rows)
    datasets.disable_caching()
    # `olmo` imports the model; the tokenizer and the configs do not need it.
    package = types.ModuleType("olmo")
    package.__path__ = [str(arguments.olmo / "olmo")]
    sys.modules["olmo"] = package
    util = types.ModuleType("olmo.util")
    util.prepare_cli_environment = lambda: None

    class StrEnum(str, enum.Enum):
        pass

    util.StrEnum = StrEnum
    sys.modules["olmo.util"] = util
    import olmo.tokenizer  # noqa: F401

    # `datasets` looks whether torch is there.
    sys.meta_path.pop()
    for name in [name for name in sys.modules if name.split(".")[0] in MISSING]:
        del sys.modules[name]
    sys.argv = [
        "prepare_tulu_data.py", arguments.out, "-t", arguments.tokenizer, "-s", arguments.seq_len,
        "--eos", arguments.eos, "--pad", arguments.pad, "-j", arguments.num_proc,
    ]  # fmt: skip
    runpy.run_path(str(arguments.olmo / "scripts" / "prepare_tulu_data.py"), run_name="__main__")


if __name__ == "__main__":
    main()
