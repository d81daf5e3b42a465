#!/usr/bin/env python3
"""OLMo's `prepare_tulu_data.py` and this repository on the same chats: time, and whether the bytes are the same.

The chats are made here, from a seed: sentences of the conversations in a source file, shuffled, with some of their words replaced by
new ones, until there are `--chars` characters. OLMo's script runs as scripts/goldens/olmo_tulu.py says (pins there).

    python scripts/bench/tulu.py OLMO_CLONE SOURCE.jsonl TOKENIZER.json [--chats 20000 --chars 16000000 --runs 3]
"""

import argparse
import json
import os
import pathlib
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time

PIPELINE = """
pipeline: tulu-bytes
stages:
  chats: {{uses: fetch, resources: {{cpus: 1}}, with: {{files: [{chats}]}}}}
  tokenizer: {{uses: tokenizer, resources: {{cpus: 1}}, with: {{file: {tokenizer}, eos_token: "{eos}", pad_token: "{pad}"}}}}
  tokens:
    uses: tokenize
    with: {{documents: "${{stages.chats.dataset}}", tokenizer: "${{stages.tokenizer.tokenizer}}", template: prepare_tulu_data}}
  rows:
    uses: memmap
    with: {{tokens: "${{stages.tokens.tokens}}", sequence_length: 2048, pack: padded}}
outputs: {{rows: "${{stages.rows.memmap}}"}}
"""


def make(source, chats, chars, path):
    rng = random.Random(6198)
    sentences = []
    for line in source.read_text().split("\n"):
        for turn in json.loads(line)["messages"] if line else []:
            sentences += [s for s in re.split(r"(?<=[.!?\n])\s+", turn["content"]) if s]
    per_turn = chars / chats / 4.15
    total = 0
    with path.open("w") as out:
        for number in range(chats):
            messages = []
            for turn in range(2 * rng.choice([1, 1, 1, 2, 3])):
                text = ""
                wanted = rng.expovariate(1 / per_turn)
                while len(text) < max(wanted, 8):
                    words = rng.choice(sentences).split(" ")
                    for i in range(len(words)):
                        if rng.random() < 0.03:
                            words[i] = "".join(rng.choice("etaoinshrdlucmwfgypbvkjxqz0123456789") for _ in range(rng.randint(2, 9)))
                    text += " ".join(words) + " "
                messages.append({"role": ["user", "assistant"][turn % 2], "content": text.strip()})
                total += len(text)
            out.write(json.dumps({"dataset": "made", "id": f"made_{number}", "messages": messages}, ensure_ascii=False) + "\n")
    return total


def timed(command, **kwargs):
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, **kwargs)
    if done.returncode != 0:
        sys.exit(f"{command}\n{done.stdout}\n{done.stderr}")
    return time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("olmo")
    parser.add_argument("source", type=pathlib.Path)
    parser.add_argument("tokenizer", type=pathlib.Path)
    parser.add_argument("--chats", type=int, default=20_000)
    parser.add_argument("--chars", type=int, default=16_000_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--eos", default="<|endoftext|>")
    parser.add_argument("--pad", default="<|padding|>")
    arguments = parser.parse_args()
    olmo_pipe = pathlib.Path("target/release/olmo-pipe").resolve()
    ids = {t["content"]: t["id"] for t in json.loads(arguments.tokenizer.read_text())["added_tokens"]}
    with tempfile.TemporaryDirectory() as work:
        work = pathlib.Path(work)
        chats = work / "chats.jsonl"
        chars = make(arguments.source, arguments.chats, arguments.chars, chats)
        print(f"{arguments.chats} chats, {chars} characters, {os.cpu_count()} cores")
        tokenizer = arguments.tokenizer.resolve()
        text = PIPELINE.format(chats=chats, tokenizer=tokenizer, eos=arguments.eos, pad=arguments.pad)
        (work / "pipeline.yaml").write_text(text)
        (work / "tulu.yaml").write_text("experiment: tulu-bytes\nuses: pipeline.yaml\n")
        ours = []
        for _ in range(arguments.runs):
            shutil.rmtree(work / ".olmo-pipe", ignore_errors=True)
            shutil.rmtree(work / "out", ignore_errors=True)
            ours.append(timed([str(olmo_pipe), "run", "tulu.yaml"], cwd=work))
        print("olmo-pipe run, nothing cached: " + ", ".join(f"{s:.2f} s" for s in ours))
        command = [sys.executable, "scripts/goldens/olmo_tulu.py", arguments.olmo, str(chats), str(work / "olmo")]
        command += ["--tokenizer", str(tokenizer), "--eos", str(ids[arguments.eos]), "--pad", str(ids[arguments.pad])]
        theirs = timed(command + ["--num-proc", "2"])
        print(f"prepare_tulu_data.py, 2 processes: {theirs:.2f} s; ours is {theirs / min(ours):.1f} times as fast")
        rows = work / "out" / "tulu-bytes" / "rows"
        for name in ["input_ids.npy", "label_mask.npy"]:
            same = (rows / name).read_bytes() == (work / "olmo" / name).read_bytes()
            print(f"{name}: {'the same bytes' if same else 'DIFFERENT'}, {(rows / name).stat().st_size} of them")
            if not same:
                sys.exit(1)


if __name__ == "__main__":
    main()
