"""Checks before a run that the harness is installed in the given Python, in the pinned versions."""

import json
import subprocess
import sys
from pathlib import Path

REQUIREMENTS = Path(__file__).resolve().parent / "requirements.txt"
FIND = "import importlib.metadata as m, sys\nfor n in sys.argv[1:]:\n try: print(m.version(n).split('+')[0])\n except m.PackageNotFoundError: print()"


def pins():
    lines = [line.split("#")[0].strip() for line in REQUIREMENTS.read_text().splitlines()]
    return dict(line.split("==") for line in lines if line)


def findings(params):
    python = params["python"]
    wanted = {"olmo-eval": None} if params["harness"] == "olmo_eval" else pins()
    install = "install olmo-eval from https://github.com/allenai/olmo-eval" if params["harness"] == "olmo_eval" else (
        "python3 -m venv harness && harness/bin/pip install -r %s, and set `python` to the path of harness/bin/python"
        % REQUIREMENTS)
    try:
        found = subprocess.run([python, "-c", FIND, *wanted], capture_output=True, text=True, timeout=50)
    except (OSError, subprocess.SubprocessError) as error:
        return [problem("harness::python", "python", "cannot start `%s`: %s" % (python, error), install)]
    versions = found.stdout.split("\n")
    if found.returncode != 0:
        said = found.stderr.strip().splitlines()[-1:] or ["no message"]
        return [problem("harness::python", "python", "`%s` failed: %s" % (python, said[0]), install)]
    result = []
    for (name, version), installed in zip(wanted.items(), versions):
        if not installed:
            what = "`%s` has no package %s" % (python, name)
            result.append(problem("harness::missing", "python", what, install))
        elif version is not None and installed != version:
            what = "`%s` has %s %s, but this stage is pinned to %s" % (python, name, installed, version)
            result.append(problem("harness::version", "python", what, install))
    return result


def problem(code, param, message, hint):
    return {"level": "error", "code": code, "param": param, "message": message, "hint": hint}


if __name__ == "__main__":
    print(json.dumps(findings(json.load(sys.stdin)["params"])))
