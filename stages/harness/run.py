"""Runs a harness on an exported model, and writes its results as metrics (convert.py)."""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
import convert  # noqa: E402


def arguments():
    parser = argparse.ArgumentParser()
    for name in ["harness", "model", "include", "out", "batch-size", "device", "dtype"]:
        parser.add_argument("--" + name)
    for name in ["tasks", "shots", "limit", "max-length", "chat", "options"]:
        # An absent value is empty text.
        parser.add_argument("--" + name, type=lambda text: json.loads(text or "null"))
    return parser.parse_args()


def lm_eval(given, model, out):
    settings = ["pretrained=%s" % model, "dtype=%s" % given.dtype]
    settings += ["max_length=%d" % given.max_length] if given.max_length else []
    command = [sys.executable, "-m", "lm_eval", "run", "--model", "hf", "--model_args", ",".join(settings),
               "--tasks", ",".join(given.tasks), "--device", given.device, "--batch_size", given.batch_size,
               "--log_samples", "--output_path", str(out)]
    command += ["--num_fewshot", str(given.shots)] if given.shots is not None else []
    command += ["--limit", str(given.limit)] if given.limit else []
    command += ["--include_path", "."] if given.include else []
    command += ["--apply_chat_template"] if given.chat else []
    return command


def olmo_eval(given, model, out):
    program = Path(sys.executable).parent / "olmo-eval"
    command = [str(program), "run", "-m", str(model)]
    for task in given.tasks:
        command += ["-t", task]
        # Options of a task follow it.
        command += ["-o", "limit=%d" % given.limit] if given.limit else []
        command += ["-o", "num_fewshot=%d" % given.shots] if given.shots is not None else []
    return command + ["-O", str(out)]


def main():
    given = arguments()
    model, out = Path(given.model).resolve(), Path(given.out).resolve()
    build = {"lm_eval": lm_eval, "olmo_eval": olmo_eval}[given.harness]
    with tempfile.TemporaryDirectory() as folder:
        command = build(given, model, Path(folder)) + (given.options or [])
        print(" ".join(command), flush=True)
        # Paths in task files are relative to them.
        status = subprocess.run(command, cwd=given.include or None).returncode
        if status:
            raise SystemExit("%s ended with exit code %d" % (given.harness, status))
        tasks, predictions = getattr(convert, given.harness)(folder)
        convert.write(tasks, predictions, out)
        for path in Path(folder).rglob("results_*.json"):
            shutil.copy(path, out / "results.json")


if __name__ == "__main__":
    main()
