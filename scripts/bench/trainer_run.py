#!/usr/bin/env python3
"""Training steps of olmo-pipe beside PyTorch's on one GPU: correctness, then rows, each printed as it is done.

    ./run                                  everything, in less than nine minutes
    ./run --rows olmo1-1b-b8 190m-b16      these rows alone
    ./run --sides ours compile             these sides alone
    ./run --cpu                            the same on this machine's CPU, with tiny rows: tries the folder itself
    ./run --cpu --emulate                  and our GPU code on the CPU, through an emulator of its kernels

This folder holds all of it but PyTorch 2.11 for CUDA, whose libtorch our side takes too; `--python` names the Python that has it.
Made by scripts/bench/trainer --folder; what the columns mean stands in docs/benchmarks/trainer.md.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
H100_FLOPS = 989e12
ONE_B = dict(d_model=2048, layers=16, heads=16, mlp=8192)
ROWS = {
    "olmo1-1b-b8": dict(ONE_B, arch="olmo1", vocab=50304, sequence=2048, batch=8),
    "olmo2-1b-b4": dict(ONE_B, arch="olmo2", vocab=100352, sequence=4096, batch=4),
    "olmo2-1b-b8": dict(ONE_B, arch="olmo2", vocab=100352, sequence=4096, batch=8),
    "190m-b16": dict(arch="olmo2", d_model=768, layers=12, heads=12, mlp=3072, vocab=50304, sequence=1024, batch=16),
    "olmo2-1b-b16-recompute": dict(ONE_B, arch="olmo2", vocab=100352, sequence=4096, batch=16, recompute=True),
}
TINY = dict(d_model=32, layers=2, heads=2, mlp=64, vocab=512, sequence=16, batch=2)
CPU_ROWS = {
    "tiny-olmo1": dict(TINY, arch="olmo1"),
    "tiny-olmo2": dict(TINY, arch="olmo2"),
    "tiny-recompute": dict(TINY, arch="olmo2", recompute=True),
}
SIDES = ["ours", "run", "compile", "eager"]


def fail(text):
    sys.exit(f"run: {text}")


class Machine:
    """What both sides compute on, and with."""

    def __init__(self, options):
        self.options = options
        self.end = time.monotonic() + options.seconds
        self.programs = options.work / "programs"
        with tarfile.open(HERE / "programs.tar.gz") as packed:
            packed.extractall(self.programs)
        self.device = "cpu" if options.cpu else "cuda"
        self.backend = "libtorch" if options.cpu and not options.emulate else "libtorch-cuda"
        asked = "import torch; print(torch.__file__); print(torch.__version__); print(torch.version.cuda)"
        answer = subprocess.run([options.python, "-c", asked], capture_output=True, text=True)
        if answer.returncode != 0:
            fail(f"{options.python} has no torch (name one that has: --python): {answer.stderr.strip()[-300:]}")
        module, self.torch, cuda = answer.stdout.split("\n")[:3]
        if not self.torch.startswith("2.11."):
            fail(f"our side is built against torch 2.11, and {options.python} has {self.torch}")
        if cuda == "None":
            fail(f"{options.python} has torch {self.torch} without CUDA, and our side is built against the one with it")
        site = Path(module).parent.parent
        libraries = [site / "torch/lib", *sorted(site.glob("nvidia/*/lib"))]
        self.ours = {name: os.environ[name] for name in ["PATH", "HOME", "CUDA_VISIBLE_DEVICES"] if name in os.environ}
        self.ours["LD_LIBRARY_PATH"] = ":".join(str(folder) for folder in libraries)
        self.ours["MKL_CBWR"] = "AUTO"
        if (HERE / "kernels").is_dir():
            self.ours["OLMO_PIPE_KERNELS"] = str(HERE / "kernels")
        if options.emulate:
            self.ours["OLMO_PIPE_EMULATE_GPU"] = "1"
        self.peers = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(options.work / "inductor")}
        if options.cpu:
            self.peers["CUDA_VISIBLE_DEVICES"] = ""

    def left(self):
        return self.end - time.monotonic()

    def head(self):
        if self.options.cpu:
            return f"CPU{', GPU code emulated' if self.options.emulate else ''}; torch {self.torch}"
        gpu = smi("name,driver_version,memory.total")
        return f"{gpu or 'a GPU that nvidia-smi does not tell of'}; torch {self.torch}"

    def run(self, command, environment, seconds):
        """Runs a program; its result line, or why there is none, and the peak of memory in GiB."""
        peak = Peak(self.options.cpu)
        with open(self.options.work / "stderr", "w+") as errors:
            child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment, start_new_session=True)
            # With the compilers that torch.compile has started.
            timer = threading.Timer(max(seconds, 1), lambda: os.killpg(child.pid, signal.SIGKILL))
            timer.start()
            text = child.stdout.read()
            # Its own peak, which the sum over all children would not tell.
            _, status, used = os.wait4(child.pid, 0)
            child.returncode = os.waitstatus_to_exitcode(status)
            stopped = not timer.is_alive()
            timer.cancel()
            gib = peak.end(used.ru_maxrss)
            errors.seek(0)
            said = errors.read()
        if stopped:
            return None, f"stopped after {seconds:.0f} s", gib
        if child.returncode != 0:
            lines = (said.strip() or text.strip()).splitlines()
            return None, f"ended with {child.returncode}: {' | '.join(lines[-3:])[-600:]}", gib
        return text, None, gib


def smi(fields):
    try:
        query = [f"--query-gpu={fields}", "--format=csv,noheader,nounits", "-i", "0"]
        answer = subprocess.run(["nvidia-smi", *query], capture_output=True, text=True)
    except OSError:
        return None
    return answer.stdout.strip() if answer.returncode == 0 else None


class Peak:
    """The most memory that is taken while a program runs: the GPU's beyond what others hold, on the CPU the program's."""

    def __init__(self, cpu):
        self.before = self.most = None if cpu else self.used()
        self.over = threading.Event()
        if self.before is not None:
            self.thread = threading.Thread(target=self.watch, daemon=True)
            self.thread.start()

    @staticmethod
    def used():
        text = smi("memory.used")
        return int(text) if text and text.isdigit() else None

    def watch(self):
        while not self.over.wait(0.2):
            self.most = max(self.most, self.used() or 0)

    def end(self, resident_kib):
        self.over.set()
        if self.before is None:
            return resident_kib / 2**20
        self.thread.join()
        return (self.most - self.before) / 2**10


def flops_per_token(row):
    """As OLMo counts them: six for each weight but the embedding's, and attention's two products over whole rows."""
    d, layers, mlp, vocab = row["d_model"], row["layers"], row["mlp"], row["vocab"]
    norms = 4 * d if row["arch"] == "olmo2" else 0
    weights = layers * (4 * d * d + 3 * d * mlp + norms) + vocab * d + (d if norms else 0)
    return 6 * weights + 12 * layers * d * row["sequence"]


def arguments_of_ours(row, machine):
    names = {"layers": "n_layers", "heads": "n_heads"}
    numbers = {name: value for name, value in row.items() if name not in ["arch", "recompute"]}
    shape = [f"{names.get(name, name)}={value}" for name, value in numbers.items()]
    # The peer clips nothing inside a block.
    arch = ["arch=olmo1", "clip_qkv=0"] if row["arch"] == "olmo1" else []
    recompute = ["recompute=whole_layer"] if row.get("recompute") else []
    precision = ["precision=amp_bf16"] if machine.backend == "libtorch-cuda" else []
    return [*shape, *arch, *recompute, *precision, f"backend={machine.backend}"]


def ours(name, row, machine, seconds):
    steps = machine.options.steps
    command = [machine.programs / "throughput", *arguments_of_ours(row, machine), "json=yes", "ids=all", f"steps={steps}", f"seconds={seconds / 3}"]
    text, why, peak = machine.run(command, machine.ours, seconds)
    return (json.loads(text.strip().splitlines()[-1]) if text else None), why, peak


def torch(compiled):
    def side(name, row, machine, seconds):
        shape = [text for name, value in row.items() if name != "recompute" for text in (f"--{name}", str(value))]
        flags = ["--compile"] * compiled + ["--recompute"] * row.get("recompute", False)
        limits = ["--steps", str(machine.options.steps), "--seconds", str(seconds / 4), "--device", machine.device]
        command = [machine.options.python, HERE / "trainer_torch_cuda.py", *shape, *flags, *limits]
        text, why, peak = machine.run(command, machine.peers, seconds)
        return (json.loads(text.strip().splitlines()[-1]) if text else None), why, peak

    return side


def whole_run(name, row, machine, seconds):
    """The same steps through `olmo-pipe run`: data, checkpoint and all; the speed is the one in its perf.jsonl."""
    work = machine.options.work / f"run-{name}"
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(HERE / "experiment", work)
    arch = dict(preset="olmo1", weight_tying=True) if row["arch"] == "olmo1" else dict(preset="olmo2")
    model = dict(d_model=row["d_model"], n_heads=row["heads"], n_layers=row["layers"], mlp_hidden_size=2 * row["mlp"],
                 embedding_size=row["vocab"], max_sequence_length=row["sequence"], **arch)
    params = dict(model=model, sequence_length=row["sequence"], batch=row["batch"], steps=machine.options.steps,
                  recompute="whole_layer" if row.get("recompute") else "none",
                  backend="libtorch", device="cuda" if machine.backend == "libtorch-cuda" else "cpu")
    experiment = {"experiment": "speed", "uses": "pipeline.yaml", "params": params}
    (work / "experiment.yaml").write_text(json.dumps(experiment))
    environment = {**machine.ours, "OLMO_PIPE_WORKER": str(work / "olmo-worker"), "OLMO_PIPE_LEASES": str(work / "leases")}
    if machine.options.emulate:
        environment["OLMO_PIPE_GPUS"] = "GPU-emulated"
    for worker in ["olmo-worker", "olmo-worker-libtorch"]:
        (work / worker).symlink_to(machine.programs / "olmo-worker-libtorch")
    gpus = 1 if machine.backend == "libtorch-cuda" else 0
    pipeline = (work / "pipeline.yaml").read_text()
    (work / "pipeline.yaml").write_text(pipeline.replace("resources: {gpus: 0}", f"resources: {{gpus: {gpus}}}"))
    command = [machine.programs / "olmo-pipe", "run", work / "experiment.yaml", "--store", work / "store"]
    text, why, peak = machine.run(command, environment, seconds)
    lines = []
    for log in sorted(work.glob("store/runs-v1/**/*.perf.jsonl")):
        lines += [json.loads(line) for line in log.read_text().splitlines()]
    shutil.rmtree(work, ignore_errors=True)
    if why or not lines:
        return None, why or "it left no perf.jsonl", peak
    # The first line holds the start of everything.
    speeds = sorted(line["tokens_per_second"] for line in lines[len(lines) // 3 :])
    speed = speeds[len(speeds) // 2]
    waits = max(line["data_wait_percent"] for line in lines[1:] or lines)
    found = {"tokens_per_second": speed, "step_ms": row["batch"] * row["sequence"] / speed * 1e3, "data_wait": waits}
    on_gpu = [line["gpu_wait_percent"] for line in lines[1:] or lines if line["gpu_wait_percent"] is not None]
    if on_gpu:
        # Near 0, launches bound the step.
        found["gpu_wait"] = min(on_gpu)
    return found, None, peak


def check(machine):
    """Our losses and gradients against the f32 reference, before anything is timed."""
    good = True
    for precision in ["fp32", "amp_bf16"] if machine.backend == "libtorch-cuda" else ["fp32"]:
        size = "small" if machine.options.cpu else "all"
        command = [machine.programs / "throughput", f"check={size}", f"backend={machine.backend}", f"precision={precision}"]
        text, why, _ = machine.run(command, machine.ours, min(120, machine.left()))
        print(f"check {precision}: {why or ''}\n{text or ''}".rstrip(), flush=True)
        good = good and text is not None
    return good


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="+", help=" ".join(ROWS))
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=SIDES)
    parser.add_argument("--seconds", type=float, default=520, help="for all of it")
    parser.add_argument("--row-seconds", type=float, default=110, help="at most for one side of a row")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--python", default="python3")
    parser.add_argument("--cpu", action="store_true")
    parser.add_argument("--emulate", action="store_true")
    parser.add_argument("--no-check", action="store_true")
    parser.add_argument("--work", type=Path, help="a folder for what is written (default: a temporary one)")
    options = parser.parse_args()
    if options.emulate and not options.cpu:
        fail("--emulate goes with --cpu")
    rows = CPU_ROWS if options.cpu else ROWS
    for name in options.rows or []:
        if name not in rows:
            fail(f"there is no row {name}; there are {' '.join(rows)}")
    with tempfile.TemporaryDirectory() as temporary:
        options.work = options.work or Path(temporary)
        options.work.mkdir(parents=True, exist_ok=True)
        machine = Machine(options)
        print(machine.head(), flush=True)
        if not options.no_check and not check(machine):
            fail("wrong results: nothing is timed (--no-check times all the same)")
        failed = measure(machine, {name: rows[name] for name in options.rows or rows})
    sys.exit(1 if failed else 0)


def measure(machine, rows):
    sides = {"ours": ours, "run": whole_run, "compile": torch(True), "eager": torch(False)}
    print(f"{'row':<24}{'side':<9}{'tokens/s':>10}{'ms/step':>10}{'MFU %':>7}{'peak GiB':>10}  remarks", flush=True)
    failed = False
    # Side by side what is compared first; eager, which decides nothing, when there is time.
    for group in [["ours", "compile"], ["run"], ["eager"]]:
        for name, row in rows.items():
            for side in [side for side in group if side in machine.options.sides]:
                label = f"{name:<24}{side:<9}"
                if machine.left() < 20:
                    print(f"{label}  not run: no time is left", flush=True)
                    continue
                seconds = min(machine.options.row_seconds, machine.left() - 5)
                result, why, peak = sides[side](name, row, machine, seconds)
                if why:
                    failed = True
                    print(f"{label}  {why} (peak {peak:.1f} GiB)", flush=True)
                    continue
                speed = result["tokens_per_second"]
                mfu = "" if machine.options.cpu else f"{100 * speed * flops_per_token(row) / H100_FLOPS:.1f}"
                remarks = [f"loss {result['losses'][0]:.3f} -> {result['losses'][1]:.3f}"] if "losses" in result else []
                if result.get("peak_allocated"):
                    remarks.append(f"{result['peak_allocated'] / 2**30:.1f} GiB allocated")
                if "data_wait" in result:
                    remarks.append(f"data waited for {result['data_wait']:.2f} %")
                if "gpu_wait" in result:
                    remarks.append(f"the host waited for the GPU {result['gpu_wait']:.0f} %")
                numbers = f"{speed:>10.0f}{result['step_ms']:>10.1f}{mfu:>7}{peak:>10.1f}"
                print(f"{label}{numbers}  {', '.join(remarks)}", flush=True)
    return failed


if __name__ == "__main__":
    main()
