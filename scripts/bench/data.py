#!/usr/bin/env python3
"""Tokenisation beside the `tokenizers` package, memory by size of input, packing, utilisation.

The chats are made as in scripts/bench/tulu.py: sentences of the conversations in SOURCE.jsonl, shuffled, with 3 % of the words replaced by random
ones. `tokens`: the same conversations as text of template `tulu`, encoded by `tokenizers` 1.0 (ids alone, nothing read or written;
crates/olmo-data/examples/raw_tokenizers.rs), and by stage `tokenize` (started, tokenizer and Parquet read, encoded with labels, written,
synced), with one thread and with two. The two are measured in turn, by the clock and by the time of processors; of `tokenizers` the best of three.
`prepare`: from the start of `fetch` to the end of `memmap`.
`memory`: the largest process of each stage, by the run's own record. `packing`: a million documents. `filled`: the conversations of SOURCE.jsonl in rows
of 2048.

    python scripts/bench/data.py SOURCE.jsonl TOKENIZER.json tokens|prepare|memory|packing|filled [--chats 20000] [--runs 3]
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import tulu

PIPELINE = """
pipeline: data-bench
stages:
  chats: {{uses: fetch, resources: {{cpus: {cpus}}}, with: {{files: [{chats}]}}}}
  tokenizer: {{uses: tokenizer, with: {{file: {tokenizer}, eos_token: "{eos}", pad_token: "{pad}"}}}}
  tokens:
    uses: tokenize
    resources: {{cpus: {cpus}}}
    with: {{documents: "${{stages.chats.dataset}}", tokenizer: "${{stages.tokenizer.tokenizer}}", template: tulu, max_length: {length}}}
  rows:
    uses: memmap
    resources: {{cpus: {cpus}}}
    with: {{tokens: "${{stages.tokens.tokens}}", sequence_length: 2048, pack: best_fit}}
"""


def run(work, tokenizer, arguments, cpus, length=1_000_000):
    """Runs all stages in a fresh store; by stage its seconds and the kibibytes of its largest process."""
    text = PIPELINE.format(chats="chats.jsonl", tokenizer=tokenizer, cpus=cpus, length=length, eos=arguments.eos, pad=arguments.pad)
    (work / "pipeline.yaml").write_text(text)
    (work / "bench.yaml").write_text("experiment: data-bench\nuses: pipeline.yaml\n")
    subprocess.run(["rm", "-rf", str(work / ".olmo-pipe")], check=True)
    program = pathlib.Path("target/release/olmo-pipe").resolve()
    done = subprocess.run([str(program), "run", "bench.yaml", "--json"], cwd=work, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(done.stdout[-2000:] + done.stderr)
    used, counts, times = {}, {}, []
    for line in done.stdout.splitlines():
        record = json.loads(line)
        event = record["event"]
        if event["kind"] in ("started", "finished"):
            times.append(record["at"] / 1000)
        if event["kind"] == "finished":
            used[event["place"]["stage"]] = event["used"]
    used["all"] = {"wall_s": times[-1] - times[0], "cpu_s": sum(stage["cpu_s"] for stage in used.values())}
    for name, port in [("tokens", "tokens"), ("rows", "memmap")]:
        # Stages say what they made in their manifests.
        command = [str(program), "artifacts", "export", f"latest:{name}.{port}", "--to", str(work / "out")]
        done = subprocess.run(command, cwd=work, capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(done.stderr)
        counts[name] = json.loads((work / "out" / "manifest.json").read_text())
        subprocess.run(["rm", "-rf", str(work / "out")], check=True)
    return used, counts


def tulu_text(messages, eos):
    text = eos
    for message in messages:
        text += f"<|{message['role']}|>\n{message['content'].strip()}"
        text += eos + "\n" if message["role"] == "assistant" else "\n"
    return text


def tokens(work, tokenizer, arguments):
    texts = [tulu_text(json.loads(line)["messages"], arguments.eos) for line in (work / "chats.jsonl").open()]
    (work / "texts.json").write_text(json.dumps(texts))
    size = sum(len(text.encode()) for text in texts)
    raw = ["cargo", "run", "--quiet", "--release", "--example", "raw_tokenizers", "--", str(tokenizer), str(work / "texts.json")]
    for threads in [1, 2]:
        theirs, ours, made = [], [], None
        # In turn, because other programs may run beside them.
        for _ in range(arguments.runs):
            command = [*raw, str(threads), "3"]
            count, wall, processor = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
            theirs.append((float(wall), float(processor)))
            used, counts = run(work, tokenizer, arguments, threads)
            ours.append((used["tokens"]["wall_s"], used["tokens"]["cpu_s"]))
            made = counts["tokens"]["tokens"]
        if made != int(count):
            sys.exit(f"{made} tokens, but `tokenizers` 1.0 makes {count}")
        print(f"{threads} thread(s), {made} tokens, {size} bytes, {arguments.runs} runs of each:")
        for what, pick in [("least", min), ("median", statistics.median)]:
            for time, name in [(0, "seconds"), (1, "seconds of processors")]:
                raw_took, took = pick(run[time] for run in theirs), pick(run[time] for run in ours)
                print(f"  {what} {name}: `tokenizers` 1.0 {raw_took:.2f} ({made / raw_took / 1e6:.1f} M tokens/s), stage tokenize {took:.2f} ({made / took / 1e6:.1f} M tokens/s), ratio {raw_took / took:.2f}")


def prepare(work, tokenizer, arguments):
    """Each stage with two threads, and `all` from the start of the first to the end of the last."""
    runs = [run(work, tokenizer, arguments, 2)[0] for _ in range(arguments.runs)]
    for stage in runs[0]:
        walls, processors = ([used[stage][key] for used in runs] for key in ("wall_s", "cpu_s"))
        print(f"  {stage}: least {min(walls):.2f} s, median {statistics.median(walls):.2f} s; of processors {min(processors):.2f} s, {statistics.median(processors):.2f} s")


def memory(work, tokenizer, arguments):
    used, counts = run(work, tokenizer, arguments, 2)
    size = (work / "chats.jsonl").stat().st_size
    print(f"{size / 1e9:.2f} GB of JSON lines, {counts['tokens']['tokens']} tokens")
    for stage, numbers in used.items():
        if stage == "all":
            continue
        print(f"  {stage}: {numbers['max_rss_kib'] / 1024:.0f} MiB, {numbers['wall_s']:.1f} s")


def packing(work, tokenizer, arguments):
    used, counts = run(work, tokenizer, arguments, 2, 2048)
    rows = counts["rows"]
    print(f"{counts['tokens']['documents']} documents, {counts['tokens']['tokens']} tokens: memmap {used['rows']['wall_s']:.2f} s, {rows['instances']} rows")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("source", type=pathlib.Path)
    parser.add_argument("tokenizer", type=pathlib.Path)
    parser.add_argument("what", choices=["tokens", "prepare", "memory", "packing", "filled"])
    parser.add_argument("--chats", type=int, default=20_000)
    parser.add_argument("--chars", type=int, default=0, help="of all chats; 800 a chat unless said")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--eos", default="<|endoftext|>")
    parser.add_argument("--pad", default="<|padding|>")
    arguments = parser.parse_args()
    tokenizer = arguments.tokenizer.resolve()
    with tempfile.TemporaryDirectory() as work:
        work = pathlib.Path(work)
        if arguments.what == "filled":
            (work / "chats.jsonl").write_bytes(arguments.source.read_bytes())
            _, counts = run(work, tokenizer, arguments, 2, 2048)
            filled = counts["tokens"]["tokens"] / (counts["rows"]["instances"] * 2048)
            print(f"{counts['tokens']['documents']} real conversations: {100 * filled:.1f} % of {counts['rows']['instances']} rows of 2048 are filled")
            return
        # A few are made and repeated with other numbers where many are asked for: making them takes longer than reading them.
        made = min(arguments.chats, 50_000)
        chars = (arguments.chars or 800 * arguments.chats) * made // arguments.chats
        tulu.make(arguments.source, made, chars, work / "made.jsonl")
        lines = (work / "made.jsonl").read_text().splitlines()
        with (work / "chats.jsonl").open("w") as out:
            for n in range(arguments.chats):
                out.write(lines[n % made].replace('"id": "made_', f'"id": "made_{n}_', 1) + "\n")
        start = time.perf_counter()
        {"tokens": tokens, "prepare": prepare, "memory": memory, "packing": packing}[arguments.what](work, tokenizer, arguments)
        print(f"({time.perf_counter() - start:.0f} s in all, {os.cpu_count()} cores)")


if __name__ == "__main__":
    main()
