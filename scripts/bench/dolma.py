#!/usr/bin/env python3
"""Pre-training documents as Dolma has them, compressed with zstd, to rows for training: speed and memory.

The documents are made from a seed: sentences of SOURCE.jsonl, shuffled, with 3 % of the words replaced by random ones, 4,000 characters on
average, with Dolma's fields (`id`, `text`, `source`, `added`, `created`, `metadata`). One shard of 0.5 GB is made; the others are the same
sentences in another order. Prints each stage's seconds, its largest process, and megabytes of JSON lines a second.

    python scripts/bench/dolma.py SOURCE.jsonl TOKENIZER.json [--gb 10] [--eos '<|endoftext|>' --pad '<|padding|>']

Needs the program `zstd` and about four bytes of disk for each byte of JSON lines.
"""

import argparse
import json
import os
import pathlib
import random
import re
import subprocess
import sys
import tempfile
import time

PIPELINE = """
pipeline: dolma-bench
stages:
  documents: {{uses: fetch, resources: {{cpus: 2}}, with: {{files: [{files}], format: text}}}}
  tokenizer: {{uses: tokenizer, with: {{file: {tokenizer}, eos_token: "{eos}", pad_token: "{pad}"}}}}
  tokens: {{uses: tokenize, with: {{documents: "${{stages.documents.dataset}}", tokenizer: "${{stages.tokenizer.tokenizer}}", template: plain}}}}
  rows: {{uses: memmap, resources: {{cpus: 2}}, with: {{tokens: "${{stages.tokens.tokens}}", sequence_length: 2048, pack: concat}}}}
"""
SHARD = 500_000_000


def documents(source):
    """Endless texts of 4,000 characters on average."""
    rng = random.Random(6198)
    sentences = []
    for line in source.read_text().split("\n"):
        for turn in json.loads(line)["messages"] if line else []:
            sentences += [s.split(" ") for s in re.split(r"(?<=[.!?\n])\s+", turn["content"]) if s]
    while True:
        wanted, words = rng.expovariate(1 / 4000), []
        while wanted > 0:
            sentence = list(rng.choice(sentences))
            for i in range(len(sentence)):
                if rng.random() < 0.03:
                    sentence[i] = "".join(rng.choice("etaoinshrdlucmwfgypbvkjxqz0123456789") for _ in range(rng.randint(2, 9)))
            words += sentence
            wanted -= sum(map(len, sentence)) + len(sentence)
        yield " ".join(words)


def shards(work, source, gigabytes):
    """Compressed shards; their paths and the number of bytes before compression."""
    made, size, number = [], 0, 0
    rng = random.Random(1)
    texts = None
    while size < gigabytes * 1e9:
        if texts is None:
            texts, total = [], 0
            for text in documents(source):
                texts.append(text)
                total += len(text)
                if total > 0.92 * min(SHARD, gigabytes * 1e9):
                    break
        rng.shuffle(texts)
        path = work / f"dolma-{len(made):04}.json.zst"
        with subprocess.Popen(["zstd", "-q", "-3", "-T0", "-o", str(path)], stdin=subprocess.PIPE) as zstd:
            for text in texts:
                record = {
                    "id": f"made-{number:010}",
                    "text": text,
                    "source": "made",
                    "added": "2024-04-10T00:00:00.000Z",
                    "created": "2024-04-01T12:34:56.000Z",
                    "metadata": {"url": f"https://example.org/{number}", "length": len(text), "language": "en"},
                }
                line = (json.dumps(record, ensure_ascii=False) + "\n").encode()
                zstd.stdin.write(line)
                size += len(line)
                number += 1
        made.append(path)
    return made, size


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("source", type=pathlib.Path)
    parser.add_argument("tokenizer", type=pathlib.Path)
    parser.add_argument("--gb", type=float, default=10)
    parser.add_argument("--eos", default="<|endoftext|>")
    parser.add_argument("--pad", default="<|padding|>")
    parser.add_argument("--work", type=pathlib.Path, help="a folder to keep; a temporary one unless said")
    arguments = parser.parse_args()
    program = pathlib.Path("target/release/olmo-pipe").resolve()
    with tempfile.TemporaryDirectory() as temporary:
        work = arguments.work or pathlib.Path(temporary)
        work.mkdir(exist_ok=True)
        kept = work / "shards.json"
        if kept.exists():
            files, size = json.loads(kept.read_text())
        else:
            made, size = shards(work, arguments.source, arguments.gb)
            files = [path.name for path in made]
            kept.write_text(json.dumps([files, size]))
        pipeline = PIPELINE.format(
            files=", ".join(files), tokenizer=arguments.tokenizer.resolve(), eos=arguments.eos, pad=arguments.pad
        )
        (work / "pipeline.yaml").write_text(pipeline)
        (work / "bench.yaml").write_text("experiment: dolma-bench\nuses: pipeline.yaml\n")
        subprocess.run(["rm", "-rf", str(work / ".olmo-pipe")], check=True)
        start = time.perf_counter()
        done = subprocess.run([str(program), "run", "bench.yaml", "--json"], cwd=work, capture_output=True, text=True)
        took = time.perf_counter() - start
        if done.returncode != 0:
            sys.exit(done.stdout[-2000:] + done.stderr)
        for line in done.stdout.splitlines():
            event = json.loads(line)["event"]
            if event["kind"] == "finished":
                used = event["used"]
                stage = event["place"]["stage"]
                print(f"{stage}: {used['wall_s']:.1f} s, {used['cpu_s']:.1f} s of CPU, {used['max_rss_kib'] / 1024:.0f} MiB")
            if event["kind"] == "message" and event["place"]["stage"] in ("tokens", "rows"):
                print(f"  {event['text']}")
        print(f"{size / 1e9:.2f} GB of JSON lines in {took:.1f} s: {size / took / 1e6:.1f} MB/s ({os.cpu_count()} cores)")


if __name__ == "__main__":
    main()
