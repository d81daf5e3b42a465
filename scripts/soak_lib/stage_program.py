"""The program of every random command stage.

usage: stage_program.py PLAN in:PORT=FOLDER … out:PORT=FOLDER … [salt=TEXT]

PLAN is JSON (`pipelines.StagePlan`). Every byte written depends only on the plan and on the paths,
executable bits and bytes of the inputs, so a stage that read a wrong byte passes it on.
"""
import hashlib
import json
import os
import subprocess
import sys
import time

# Rounds that edit the program change this, and with it every byte of the outputs.
EDITION = "first"


def read_inputs(folders, pause):
    """Digest of all files below `folders`, read in small pieces with a pause after each."""
    digest = hashlib.sha256()
    for port, folder in folders:
        paths = sorted(os.path.join(place, name) for place, _, names in os.walk(folder) for name in names)
        for path in paths:
            executable = os.stat(path).st_mode & 0o100
            digest.update(repr((port, os.path.relpath(path, folder), executable)).encode())
            with open(path, "rb") as file:
                while piece := file.read(65536):
                    digest.update(piece)
                    time.sleep(pause)
    return digest.digest()


def write_file(folder, file, seed):
    path = os.path.join(folder, file["path"])
    os.makedirs(os.path.dirname(path), exist_ok=True)
    # Files with the same content id have equal bytes.
    content = hashlib.shake_256(seed + file["content"].encode()).digest(file["size"])
    with open(path, "wb") as out:
        out.write(content)
    if file["executable"]:
        os.chmod(path, 0o755)


def main():
    plan = json.loads(sys.argv[1])
    ports = [argument.split("=", 1) for argument in sys.argv[2:]]
    inputs = [(name[3:], folder) for name, folder in ports if name.startswith("in:") and folder]
    outputs = {name[4:]: folder for name, folder in ports if name.startswith("out:")}
    for number in range(plan["background"]):
        # A process that leaves the stage's session and would outlive it by minutes.
        subprocess.Popen(["sleep", "300"], start_new_session=number % 2 == 0)
    print("stage", plan["name"], "begins", flush=True)
    salt = dict(ports).get("salt", "")
    seed = hashlib.sha256(f"{EDITION} {plan['name']} {salt} ".encode() + read_inputs(inputs, plan["read_pause"])).digest()
    for port, folder in outputs.items():
        for item, files in plan["outputs"][port].items():
            place = os.path.join(folder, item) if item else folder
            for file in files:
                write_file(place, file, seed + f"{port}/{item}/".encode())
                time.sleep(plan["write_pause"])
            print("wrote", port, item, flush=True)


main()
