#!/usr/bin/env python3
"""Engine overhead per cold stage: N trivial command stages (`cat inputs | head -c 64`), each run once.

usage: cold-stages.py OLMO_PIPE [--stages 100] [--shape fan|chain] [--rounds 5] [--jobs 2]

Prints, for each round and as the best: wall and CPU seconds of the cold run, the same divided by the number of
stages, and beside it the floor: the same commands started one after the other, and by `xargs -P`, with no engine.
A new project, and so a new store, for each round, in the current folder's file system (--dir to choose another).
"""
import argparse, os, resource, shutil, subprocess, tempfile, time

STAGE = """stage: cat
version: 1
summary: Concatenates its inputs.
inputs:
  from: {type: text, list: true, optional: true}
  file: {type: file, optional: true}
outputs: {text: {type: text}}
params: {n: {type: integer, default: 0}}
resources: {cpus: 1, memory_mib: 16}
command:
  argv: [/bin/sh, '${stage.dir}/cat.sh', '${outputs.text}', '${inputs.from}', '${inputs.file}', '${params.n}']
  files: [cat.sh]
"""
SCRIPT = """if [ -n "$2" ]; then cat "$2"/*/text; else cat "$3"/*; fi | head -c 64 > "$1/text"; echo "$4" >> "$1/text"\n"""


def generate(folder, n, shape):
    os.makedirs(f"{folder}/stages/cat")
    put = lambda name, text: open(f"{folder}/{name}", "w").write(text)
    put("olmo-pipe.yaml", "")
    put("stages/cat/stage.yaml", STAGE)
    put("stages/cat/cat.sh", SCRIPT)
    put("data.txt", "hello\n")
    lines = ["pipeline: p", "stages:"]
    for i in range(n):
        if i == 0:
            source = "file: data.txt"
        elif shape == "chain":
            source = f"from: ['${{stages.s{i - 1}.text}}']"
        else:
            source = "from: ['${stages.s0.text}']"
        lines.append(f"  s{i}: {{uses: cat, with: {{{source}, n: {i}}}}}")
    put("pipeline.yaml", "\n".join(lines) + "\n")
    put("e.yaml", "experiment: e\nuses: pipeline.yaml\n")


def timed(command, folder):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    since = time.perf_counter()
    done = subprocess.run(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    wall = time.perf_counter() - since
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(f"{command}: {done.stderr[-2000:]}")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return wall, cpu


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("--stages", type=int, default=100)
    parser.add_argument("--shape", default="fan", choices=["fan", "chain"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--dir", default=".")
    a = parser.parse_args()
    program, n = os.path.abspath(a.program), a.stages
    best = {}
    for _ in range(a.rounds):
        with tempfile.TemporaryDirectory(dir=a.dir) as folder:
            generate(folder, n, a.shape)
            os.makedirs(f"{folder}/floor")
            one = f"for i in $(seq {n}); do mkdir floor/$i; /bin/sh stages/cat/cat.sh floor/$i '' . $i 2>/dev/null; done"
            rows = {"engine, cold": timed([program, "run", "e.yaml"], folder), "engine, no-op": timed([program, "run", "e.yaml"], folder),
                    "no engine, one by one": timed(["sh", "-c", one], folder)}
        for name, (wall, cpu) in rows.items():
            print(f"  {name:<24} wall {wall * 1e3:8.1f} ms  cpu {cpu * 1e3:8.1f} ms  per stage {wall / n * 1e3:6.2f} ms")
            if name not in best or wall < best[name][0]:
                best[name] = (wall, cpu)
        print(flush=True)
    print(f"best of {a.rounds}, {n} stages, {a.shape}:")
    for name, (wall, cpu) in best.items():
        print(f"  {name:<24} wall {wall * 1e3:8.1f} ms  cpu {cpu * 1e3:8.1f} ms  per stage {wall / n * 1e3:6.2f} ms")


main()
