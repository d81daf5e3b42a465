#!/usr/bin/env python3
"""Makes the pictures of docs/data.md: what `olmo-pipe data preview` and `data audit` print on a terminal, as SVG.

Six conversations of this file's own making, some of them with what an audit finds, go through the stages that ship.

    cargo build --release && python scripts/pictures.py        (writes docs/pictures/*.svg)
"""

import html
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile

PIPELINE = """
pipeline: pictures
stages:
  chats: {uses: fetch, with: {files: [chats.jsonl]}}
  sentences: {uses: fetch, with: {files: [SENTENCES], format: text}}
  tokenizer: {uses: tokenizer, with: {documents: ["${stages.sentences.dataset}", "${stages.chats.dataset}"], vocab_size: 700}}
  tokens: {uses: tokenize, with: {documents: "${stages.chats.dataset}", tokenizer: "${stages.tokenizer.tokenizer}", template: tulu}}
  rows: {uses: memmap, with: {tokens: "${stages.tokens.tokens}", sequence_length: 192, pack: best_fit}}
outputs: {tokenizer: "${stages.tokenizer.tokenizer}"}
"""

CHATS = [
    [("system", "Answer in one sentence."), ("user", "What is a tide?"), ("assistant", "The slow rise and fall of the sea, twice a day.")],
    [("user", "Name a prime above 10."), ("assistant", "11."), ("user", "Another one?"), ("assistant", "13.")],
    [("user", "Say <|endoftext|> to me."), ("assistant", "I would rather not.")],
    [("user", "Name a prime above 10."), ("assistant", "11."), ("user", "Another one?"), ("assistant", "13.")],
    [("user", "Translate: good morning."), ("assistant", "Guten Morgen.")],
    [("user", "Which is larger, 57 or 32?"), ("user", "Well?"), ("assistant", "57 is larger.")],
]
COLOURS = {"31": "#ff6b68", "32": "#5fd38d", "33": "#e5c07b", "34": "#61afef", "90": "#8a919e", None: "#d7dae0"}
WIDTH, LINE, CHARACTER = 100, 19, 8.43


def wrapped(text):
    """Lines of (colour, text), broken after WIDTH characters."""
    lines, colour = [], None
    for line in text.rstrip("\n").split("\n"):
        parts, room = [], WIDTH
        for piece in re.split(r"(\x1b\[[0-9;]*m)", line):
            code = re.fullmatch(r"\x1b\[([0-9;]*)m", piece)
            if code:
                colour = None if code.group(1) in ("", "0") else code.group(1)
                continue
            while piece:
                parts.append((colour, piece[:room]))
                room -= len(piece[:room])
                piece = piece[len(parts[-1][1]):]
                if room == 0 and piece:
                    lines.append(parts)
                    parts, room = [], WIDTH
        lines.append(parts)
    return lines


def picture(shown):
    lines = []
    for command, text in shown:
        lines += [[(None, f"$ {command}")]] + wrapped(text) + [[]]
    lines.pop()
    width, height = int(WIDTH * CHARACTER + 40), len(lines) * LINE + 40
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" role="img">',
        f"<title>{html.escape('; '.join(command for command, _ in shown))}</title>",
        f'<rect width="{width}" height="{height}" rx="8" fill="#1e2127"/>',
        '<g font-family="ui-monospace, SFMono-Regular, Menlo, Consolas, DejaVu Sans Mono, monospace" font-size="14" xml:space="preserve">',
    ]
    for number, parts in enumerate(lines):
        spans = "".join(f'<tspan fill="{COLOURS[colour]}">{html.escape(part)}</tspan>' for colour, part in parts if part)
        if spans:
            out.append(f'<text x="20" y="{34 + number * LINE}">{spans}</text>')
    return "\n".join(out + ["</g>", "</svg>", ""])


def main():
    root = pathlib.Path(__file__).resolve().parent.parent
    program = str(root / "target/release/olmo-pipe")
    (root / "docs/pictures").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as work:
        work = pathlib.Path(work)
        with (work / "chats.jsonl").open("w") as out:
            for n, turns in enumerate(CHATS):
                messages = [{"role": role, "content": content} for role, content in turns]
                out.write(json.dumps({"dataset": "made", "id": f"made_{n}", "messages": messages}) + "\n")
        (work / "pipeline.yaml").write_text(PIPELINE.replace("SENTENCES", str(root / "data/sentences.txt")))
        (work / "e.yaml").write_text("experiment: pictures\nuses: pipeline.yaml\n")
        done = subprocess.run([program, "run", "e.yaml"], cwd=work, capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(done.stderr)
        pictures = {
            "preview": [["preview", "latest:rows.memmap"]],
            "audit": [
                ["audit", "latest:chats.dataset", "--tokenizer", "out/pictures/tokenizer"],
                ["audit", "latest:tokens.tokens", "--max-length", "64"],
            ],
        }
        for name, commands in pictures.items():
            printed = []
            for words in commands:
                environment = {**os.environ, "CLICOLOR_FORCE": "1"}
                shown = subprocess.run([program, "data", *words], cwd=work, capture_output=True, text=True, env=environment)
                if not shown.stdout:
                    sys.exit(shown.stderr)
                printed.append(("olmo-pipe data " + " ".join(words), shown.stdout))
            path = root / f"docs/pictures/{name}.svg"
            path.write_text(picture(printed))
            print(path.relative_to(root))


if __name__ == "__main__":
    main()
