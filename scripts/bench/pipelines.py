#!/usr/bin/env python3
"""The same pipeline of N trivial command stages for olmo-pipe and its peers, timed as whole processes.

usage: scripts/bench/pipelines.py [--rows noop,cold,each,plan,validate] [--n 10,100,1000] [--shapes fan,chain] [--items 100,1500,4000]
                                  [--runs R] [--tools olmo-pipe,make,turbo,dvc]

Shape `fan`: one source stage, N-2 parallel ones, one sink that reads them (at most 1,000); `chain`: each stage reads the one before.
noop   the second and later runs, when nothing changed
cold   the first run, in an empty store; per stage: the wall and CPU time above a run of the same programs without an engine
       (for N > 10,000 those programs run for 10,000 stages, and their time is scaled)
each   a cold `for_each` stage over a list of N items (olmo-pipe alone); per item: CPU time of the engine itself, and its part in user mode
plan   `olmo-pipe plan` of 100,000 stages from a file, the deepest chain, and from a sweep (olmo-pipe alone: no peer gets there)
validate  `olmo-pipe validate` of the flagship, rules of its stages included

Wall, CPU (of the process and its children) and peak memory come from wait4, `own` (CPU of the process alone, all its threads)
from /proc in steps of 10 ms; the median of R runs is printed. A slow disk hides the engine: set TMPDIR=/dev/shm. olmo-pipe is
taken from target/release (or OLMO_PIPE). Peers are used where they are: `make`; `PEERS` names a folder with
node/node_modules/@turbo/linux-64 or turbo-linux-64 (npm i turbo) and v/bin/dvc (python3 -m venv v; v/bin/pip install dvc).
"""
import argparse, glob, json, os, shutil, statistics, subprocess, sys, tempfile, time

HERE = os.path.dirname(os.path.abspath(__file__))
OLMO = os.environ.get("OLMO_PIPE", os.path.join(HERE, "../../target/release/olmo-pipe"))
PEERS = os.environ.get("PEERS", "")


def graph(n, shape):
    """[(name, [names of what it reads])]"""
    name = "s{:06d}".format
    if shape == "chain":
        return [(name(i), [name(i - 1)] if i else []) for i in range(n)]
    middle = [(name(i), [name(0)]) for i in range(1, n - 1)]
    # More files than this do not fit on a command line.
    return [(name(0), [])] + middle + [(name(n - 1), [m for m, _ in middle[-1000:]])]


def write(path, text):
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    with open(path, "w") as f:
        f.write(text)


def olmo_pipe(stages, folder):
    write(f"{folder}/olmo-pipe.yaml", "project: bench\n")
    write(f"{folder}/data.txt", "hello\n")
    # `cat` and `head` as everywhere else; a program of the shell's own would be another benchmark.
    for name, port in (("first", "{type: file}"), ("next", "{type: text, list: true}")):
        write(f"{folder}/stages/{name}/stage.yaml", f"""stage: {name}
version: 1
summary: Joins its inputs.
inputs: {{parts: {port}}}
params: {{name: {{type: string}}}}
outputs: {{all: {{type: text}}}}
resources: {{cpus: 1, memory_mib: 1}}
command: {{argv: [/bin/sh, "${{stage.dir}}/join.sh", "${{inputs.parts}}", "${{outputs.all}}", "${{params.name}}"], files: [join.sh]}}
""")
        parts = '"$1"/*' if name == "first" else '"$1"/*/*'
        write(f"{folder}/stages/{name}/join.sh", '{ echo "$3"; cat %s; } | head -c 64 > "$2/t"\n' % parts)
    lines = ["pipeline: bench", "stages:"]
    for name, reads in stages:
        parts = ", ".join(f'"${{stages.{r}.all}}"' for r in reads)
        if reads:
            lines.append(f"  {name}: {{uses: next, with: {{parts: [{parts}], name: {name}}}}}")
        else:
            lines.append(f"  {name}: {{uses: first, with: {{parts: data.txt, name: {name}}}}}")
    write(f"{folder}/pipeline.yaml", "\n".join(lines) + "\n")
    write(f"{folder}/x.yaml", "experiment: bench\nuses: pipeline.yaml\n")
    return [OLMO, "run", "x.yaml"]


def each(n, folder):
    """A stage that makes a list of n items, and a `for_each` stage over it."""
    write(f"{folder}/olmo-pipe.yaml", "project: bench\n")
    write(f"{folder}/stages/list/stage.yaml", """stage: list
version: 1
summary: Makes a list.
params: {count: {type: integer}}
outputs: {items: {type: text, list: true}}
resources: {cpus: 1, memory_mib: 1}
command: {argv: [/bin/sh, "${stage.dir}/list.sh", "${outputs.items}", "${params.count}"], files: [list.sh]}
""")
    write(f"{folder}/stages/list/list.sh", 'for i in $(seq "$2"); do mkdir "$1/i$i"; echo "$i" > "$1/i$i/t"; done\n')
    write(f"{folder}/stages/one/stage.yaml", """stage: one
version: 1
summary: Reads one item.
inputs: {item: {type: text}}
outputs: {out: {type: text}}
resources: {cpus: 1, memory_mib: 1}
command: {argv: [/bin/sh, "${stage.dir}/one.sh", "${inputs.item}", "${outputs.out}"], files: [one.sh]}
""")
    write(f"{folder}/stages/one/one.sh", 'cat "$1"/* | head -c 64 > "$2/t"\n')
    write(f"{folder}/pipeline.yaml", f"""pipeline: bench
stages:
  list: {{uses: list, with: {{count: {n}}}}}
  one: {{uses: one, for_each: "${{stages.list.items}}", with: {{item: "${{item}}"}}}}
""")
    write(f"{folder}/x.yaml", "experiment: bench\nuses: pipeline.yaml\n")
    return [OLMO, "run", "x.yaml"]


def make(stages, folder):
    write(f"{folder}/data.txt", "hello\n")
    os.makedirs(f"{folder}/out")
    rules = [f"all: out/{stages[-1][0]}.txt"]
    for name, reads in stages:
        parts = " ".join(f"out/{r}.txt" for r in reads) or "data.txt"
        rules.append(f"out/{name}.txt: {parts}\n\t@cat {parts} | head -c 64 > $@")
    write(f"{folder}/Makefile", "\n".join(rules) + "\n")
    return ["make", "-j2"]


def turbo(stages, folder):
    found = [p for name in ("@turbo/linux-64", "turbo-linux-64") for p in glob.glob(f"{PEERS}/node/node_modules/{name}/bin/turbo")]
    if not found:
        return None
    packages = {"name": "b", "private": True, "packageManager": "npm@10.0.0", "workspaces": ["p/*"]}
    write(f"{folder}/package.json", json.dumps(packages))
    task = {"dependsOn": ["^build"], "outputs": ["out/**"]}
    write(f"{folder}/turbo.json", json.dumps({"$schema": "https://turborepo.com/schema.json", "tasks": {"build": task}}))
    lock = {"name": "b", "lockfileVersion": 3, "requires": True, "packages": {"": {"name": "b", "workspaces": ["p/*"]}}}
    for name, reads in stages:
        needs = {r: "*" for r in reads}
        package = {"name": name, "version": "1.0.0", "scripts": {"build": "sh ../../c.sh"}, "dependencies": needs}
        write(f"{folder}/p/{name}/package.json", json.dumps(package))
        write(f"{folder}/p/{name}/in.txt", name)
        lock["packages"][f"p/{name}"] = {"name": name, "version": "1.0.0", "dependencies": needs}
        lock["packages"][f"node_modules/{name}"] = {"resolved": f"p/{name}", "link": True}
    write(f"{folder}/package-lock.json", json.dumps(lock))
    write(f"{folder}/c.sh", "mkdir -p out; cat in.txt | head -c 64 > out/o.txt\n")
    # npm itself takes 0.2 s to start, which is not turbo's time.
    write(f"{folder}/shim/npm", "#!/bin/sh\nexec sh ../../c.sh\n")
    os.chmod(f"{folder}/shim/npm", 0o755)
    write(f"{folder}/.gitignore", "out/\n.turbo\nnode_modules\nshim\n")
    for command in ("init -q -b main", "add -A", "-c user.name=b -c user.email=b@b commit -q -m x"):
        subprocess.run(["git", *command.split()], cwd=folder, check=True)
    return [found[0], "run", "build", "--concurrency=2", "--output-logs=none", "--no-daemon"]


def dvc(stages, folder):
    program = f"{PEERS}/v/bin/dvc"
    if not os.path.exists(program):
        return None
    write(f"{folder}/data.txt", "hello\n")
    os.makedirs(f"{folder}/out")
    lines = ["stages:"]
    for name, reads in stages:
        parts = [f"out/{r}.txt" for r in reads] or ["data.txt"]
        lines += [f"  {name}:", f"    cmd: cat {' '.join(parts)} | head -c 64 > out/{name}.txt", "    deps:"]
        lines += [f"    - {p}" for p in parts] + ["    outs:", f"    - out/{name}.txt"]
    write(f"{folder}/dvc.yaml", "\n".join(lines) + "\n")
    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
    subprocess.run([program, "init", "-q"], cwd=folder, check=True)
    return [program, "repro", "-q"]


def bare(stages, folder):
    """The same programs, one after the other, without any engine."""
    write(f"{folder}/data.txt", "hello\n")
    os.makedirs(f"{folder}/out")
    lines = []
    for name, reads in stages:
        parts = " ".join(f"out/{r}.txt" for r in reads) or "data.txt"
        lines.append(f"/bin/sh -c 'cat {parts} | head -c 64 > out/{name}.txt'")
    write(f"{folder}/all.sh", "\n".join(lines) + "\n")
    return ["/bin/sh", "all.sh"]


TOOLS = {"olmo-pipe": olmo_pipe, "make": make, "turbo": turbo, "dvc": dvc, "bare": bare}


def own_cpu(pid):
    """CPU seconds of all threads of a process that has exited, without those of its children: in all, and in user mode."""
    with open(f"/proc/{pid}/stat") as f:
        fields = f.read().rsplit(")", 1)[1].split()
    tick = os.sysconf("SC_CLK_TCK")
    return (int(fields[11]) + int(fields[12])) / tick, int(fields[11]) / tick


def timed(command, folder):
    environment = {k: v for k, v in os.environ.items() if k not in ("CI", "OLMO_PIPE_STORE")}
    environment |= {"TURBO_TELEMETRY_DISABLED": "1", "DVC_NO_ANALYTICS": "1", "NO_COLOR": "1"}
    environment["PATH"] = f"{folder}/shim:{environment['PATH']}"
    with open(f"{folder}/.log", "wb") as log:
        start = time.perf_counter()
        child = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        wall = time.perf_counter() - start
        own, user = own_cpu(child.pid)
        _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        with open(f"{folder}/.log", errors="replace") as log:
            sys.exit(f"{command} ended with {child.returncode}:\n{log.read()[-2000:]}")
    return wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, own, user


def median(samples):
    return [statistics.median(column) for column in zip(*samples)]


def row(label, tool, n, shape, sample, extra=""):
    wall, cpu, memory, own, _ = sample
    print(
        f"{label:<7} {tool:<10} {shape:<6} N={n:<7} {wall * 1000:10.1f} ms  cpu {cpu * 1000:9.1f} ms  "
        f"own {own * 1000:8.0f} ms  {memory:7.1f} MB{extra}",
        flush=True,
    )


def main():
    options = argparse.ArgumentParser()
    options.add_argument("--rows", default="noop,cold,plan,validate")
    options.add_argument("--n", default="10,100,1000")
    options.add_argument("--items", default="100,1500,4000")
    options.add_argument("--runs", type=int, default=9)
    options.add_argument("--tools", default="olmo-pipe,make,turbo,dvc")
    options.add_argument("--shapes", default="fan,chain")
    options = options.parse_args()
    rows = options.rows.split(",")
    work = tempfile.mkdtemp(prefix="olmo-pipe-bench-", dir=os.environ.get("TMPDIR", "/var/tmp"))
    try:
        for n in map(int, options.n.split(",")):
            for shape in options.shapes.split(","):
                if not {"noop", "cold"} & set(rows):
                    continue
                alone = None
                for tool in ["bare"] * ("cold" in rows) + options.tools.split(","):
                    # A cold DVC run of 1000 stages takes the better part of an hour.
                    if tool == "dvc" and n > 100:
                        continue
                    folder = f"{work}/{tool}-{shape}-{n}"
                    os.makedirs(folder)
                    scale = max(n / 10_000, 1) if tool == "bare" else 1
                    stages = graph(round(n / scale), shape)
                    command = TOOLS[tool](stages, folder)
                    if command is None:
                        print(f"       {tool} is not there (PEERS={PEERS or 'unset'})")
                        continue
                    cold = timed(command, folder)
                    if tool == "bare":
                        cold = (cold[0] * scale, cold[1] * scale, cold[2], cold[3] * scale, cold[4] * scale)
                        alone = cold
                    if "cold" in rows:
                        above = [(cold[i] - alone[i]) / n * 1000 for i in (0, 1)] if alone and tool != "bare" else []
                        over = "  a stage above bare: wall {:6.2f} ms, cpu {:6.2f} ms".format(*above) if above else ""
                        row("cold", tool, n, shape, cold, over)
                    if "noop" in rows and tool != "bare":
                        timed(command, folder)
                        row("noop", tool, n, shape, median([timed(command, folder) for _ in range(options.runs)]))
                    shutil.rmtree(folder)
        if "each" in rows:
            for n in map(int, options.items.split(",")):
                folder = f"{work}/each-{n}"
                os.makedirs(folder)
                command = each(n, folder)
                sample = timed(command, folder)
                of_engine = f"  engine CPU per item: {sample[3] / n * 1000:5.2f} ms, {sample[4] / n * 1000:5.2f} ms of it in user mode"
                row("each", "olmo-pipe", n, "list", sample, of_engine)
                shutil.rmtree(folder)
        if "plan" in rows:
            for shape in ("fan", "chain"):
                folder = f"{work}/plan-{shape}"
                os.makedirs(folder)
                olmo_pipe(graph(100_000, shape), folder)
                row("plan", "olmo-pipe", 100_000, shape, median([timed([OLMO, "plan", "x.yaml"], folder) for _ in range(3)]))
                shutil.rmtree(folder)
            folder = f"{work}/plan-sweep"
            os.makedirs(folder)
            olmo_pipe(graph(2, "chain"), folder)
            write(f"{folder}/pipeline.yaml", """pipeline: bench
params: {name: {type: string, default: a}}
stages:
  first: {uses: first, with: {parts: data.txt, name: shared}}
  each: {uses: next, with: {parts: ["${stages.first.all}"], name: "${params.name}"}}
""")
            names = ", ".join(f"n{i}" for i in range(99_999))
            write(f"{folder}/x.yaml", f"experiment: bench\nuses: pipeline.yaml\nsweep: {{grid: {{params.name: [{names}]}}}}\n")
            row("plan", "olmo-pipe", 100_000, "sweep", median([timed([OLMO, "plan", "x.yaml"], folder) for _ in range(3)]))
            shutil.rmtree(folder)
        if "validate" in rows:
            folder = f"{work}/validate"
            os.makedirs(folder)
            flagship = os.path.abspath(os.path.join(HERE, "../../experiments/finetune-tulu.yaml"))
            command = [OLMO, "validate", flagship, "--store", f"{folder}/store"]
            row("valid", "olmo-pipe", 17, "tulu", median([timed(command, folder) for _ in range(options.runs)]))
    finally:
        shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    main()
