#!/usr/bin/env python3
"""A Jinja chat template beside transformers: text, ids and labels of the same conversations.

transformers: `apply_chat_template(..., tokenize=True, return_dict=True)` of one conversation after another, without labels
(its mask needs tags in the template) and without reading or writing. Stage `tokenize`: the same template from a file, read
from Parquet, encoded with labels, written and synced, on one processor and on two; the start of its process is included.

    python scripts/bench/templates.py CHATS.jsonl TOKENIZER.json [--eos '<|endoftext|>'] [--pad '<|padding|>'] [--runs 3]

Needs `transformers` (checked with 5.24.0).
"""

import argparse
import json
import os
import pathlib
import subprocess
import tempfile
import time

TEMPLATE = (
    "{%- for message in messages %}"
    "{%- if message.role == 'assistant' %}"
    "{{- '<|assistant|>\\n' + message.content | trim + eos_token + '\\n' }}"
    "{%- else %}"
    "{{- '<|' + message.role + '|>\\n' + message.content | trim + '\\n' }}"
    "{%- endif %}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|assistant|>\\n' }}{%- endif %}"
)

PIPELINE = """
pipeline: template-bench
stages:
  chats: {{uses: fetch, with: {{files: [{chats}]}}}}
  tokenizer: {{uses: tokenizer, with: {{file: {tokenizer}, eos_token: "{eos}", pad_token: "{pad}"}}}}
  tokens:
    uses: tokenize
    resources: {{cpus: {cpus}}}
    with: {{documents: "${{stages.chats.dataset}}", tokenizer: "${{stages.tokenizer.tokenizer}}", {template}, max_length: 100000}}
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("chats", type=pathlib.Path)
    parser.add_argument("tokenizer", type=pathlib.Path)
    parser.add_argument("--eos", default="<|endoftext|>")
    parser.add_argument("--pad", default="<|padding|>")
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    chats = [json.loads(line)["messages"] for line in options.chats.read_text().splitlines() if line.strip()]
    print(f"{len(chats)} conversations, seconds, {options.runs} runs each")
    print("transformers, one process:", *peer(chats, options))
    for name, template in [("jinja", "template: jinja, chat_template: t.jinja"), ("tulu", "template: tulu")]:
        for cpus in [1, 2]:
            print(f"stage tokenize, template {name}, {cpus} processors:", *ours(template, cpus, options))


def peer(chats, options):
    os.environ["TRANSFORMERS_VERBOSITY"] = "error"
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(options.tokenizer), eos_token=options.eos, pad_token=options.pad, chat_template=TEMPLATE
    )
    for _ in range(options.runs):
        start = time.perf_counter()
        for chat in chats:
            tokenizer.apply_chat_template(chat, tokenize=True, return_dict=True)
        yield f"{time.perf_counter() - start:.2f}"


def ours(template, cpus, options):
    program = pathlib.Path(__file__).resolve().parents[2] / "target/release/olmo-pipe"
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        (folder / "t.jinja").write_text(TEMPLATE)
        text = PIPELINE.format(
            chats=options.chats.resolve(),
            tokenizer=options.tokenizer.resolve(),
            eos=options.eos,
            pad=options.pad,
            cpus=cpus,
            template=template,
        )
        (folder / "p.yaml").write_text(text)
        (folder / "e.yaml").write_text("experiment: e\nuses: p.yaml\n")
        subprocess.run([program, "run", "e.yaml"], cwd=folder, check=True, capture_output=True)
        for _ in range(options.runs):
            start = time.perf_counter()
            command = [program, "run", "e.yaml", "--force", "tokens"]
            subprocess.run(command, cwd=folder, check=True, capture_output=True)
            yield f"{time.perf_counter() - start:.2f}"


if __name__ == "__main__":
    main()
