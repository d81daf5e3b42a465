"""Makes the folder that measures training on a bare GPU machine: scripts/bench/trainer --folder DIR."""

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BENCH = ROOT / "scripts/bench"
# What the machine that lends the GPU takes.
LIMIT = 60 << 20
ARCHITECTURES = ["sm_90"]


def make(folder):
    lib = Path(os.environ.get("LIBTORCH", "")) / "lib"
    if not (lib / "libtorch_cuda.so").exists():
        sys.exit("this links against libtorch with CUDA: scripts/libtorch cuda -- scripts/bench/trainer --folder DIR")
    if folder.exists() and any(folder.iterdir()) and not (folder / "programs.tar.gz").exists():
        sys.exit(f"{folder} holds something else; name an empty folder, or one that this has made")
    build = ["cargo", "build", "--release", "--features", "olmo-worker/libtorch"]
    programs = ["--bin", "olmo-pipe", "--bin", "olmo-worker-libtorch", "--example", "throughput"]
    subprocess.run([*build, *programs], cwd=ROOT, check=True)
    release = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    # As they are, the three programs are larger than the limit; `run` unpacks them.
    with tempfile.TemporaryDirectory() as temporary, tarfile.open(folder / "programs.tar.gz", "w:gz") as packed:
        for program in ["olmo-pipe", "olmo-worker-libtorch", "examples/throughput"]:
            stripped = Path(temporary) / Path(program).name
            subprocess.run(["strip", "--strip-all", "-o", stripped, release / program], check=True)
            packed.add(stripped, stripped.name)
    for architecture in ARCHITECTURES:
        # The GPU machine need not wait for the compiler, nor have it.
        worker = release / "olmo-worker-libtorch"
        subprocess.run([worker, "kernels", "--gpu", architecture, folder / "kernels"], check=True, stdout=subprocess.DEVNULL)
    shutil.copy(BENCH / "trainer_run.py", folder / "run")
    (folder / "run").chmod(0o755)
    shutil.copy(BENCH / "trainer_torch_cuda.py", folder)
    shutil.copytree(BENCH / "trainer_experiment", folder / "experiment")
    shutil.copy(ROOT / "olmo-pipe.yaml", folder / "experiment")
    shutil.copy(ROOT / "data/sentences.txt", folder / "experiment")
    sizes = {path.relative_to(folder): path.stat().st_size for path in sorted(folder.rglob("*")) if path.is_file()}
    for path, size in sizes.items():
        print(f"{size / 2**20:8.2f} MiB  {path}")
    total = sum(sizes.values())
    print(f"{total / 2**20:8.2f} MiB  in all, of {LIMIT >> 20}; there: {folder.name}/run")
    if total >= LIMIT:
        sys.exit("that is too much")
