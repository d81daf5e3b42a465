"""Rounds of kind `full`: the disk, its inodes or the size of files run out, then there is more room."""
import ctypes
import os
import shutil

from .finding import Finding
from .pipelines import random_pipeline
from .settle import check_quiet, check_settled
from .snapshot import check_out

CLONE_NEWNS, CLONE_NEWUSER = 0x00020000, 0x10000000
MS_REC, MS_PRIVATE, MS_REMOUNT = 0x4000, 1 << 18, 32
LIBC = ctypes.CDLL(None, use_errno=True)


def full_round(round):
    rng = round.rng
    pipeline = random_pipeline(rng)
    expected = round.expect(pipeline)
    project = round.project("disturbed", pipeline)
    if not can_mount():
        round.note("no mounts here: file sizes are limited instead")
        return small_files(round, project, expected)
    needs = size_of(os.path.join(round.folder, "undisturbed", ".olmo-pipe"))
    place = project.store if rng.random() < 0.8 else project.out
    os.makedirs(place)
    inodes = rng.random() < 0.25
    full = rng.randint(8, 400) if inodes else max(16, int(needs * rng.uniform(0.02, 1.2)) // 1024)
    room = (lambda amount: f"size=1g,nr_inodes={amount}") if inodes else (lambda amount: f"size={amount}k")
    mount("tmpfs", place, "tmpfs", 0, room(full))
    try:
        for _ in range(rng.randint(1, 3)):
            run_without_room(round, project, expected)
            if rng.random() < 0.5:
                full = int(full * rng.uniform(1.05, 2)) + 1
                mount("tmpfs", place, "tmpfs", MS_REMOUNT, room(full))
        mount("tmpfs", place, "tmpfs", MS_REMOUNT, "size=2g,nr_inodes=1000000")
        project.run()
        check_settled(project, expected)
    except Finding:
        # The file system goes with this process: keep what it holds.
        shutil.copytree(place, place + "-as-found", symlinks=True, ignore=skip_special)
        raise


def run_without_room(round, project, expected):
    rng = round.rng
    # 2: a stage's own rule that compares the free space with what it will write.
    result = project.run(codes={0, 1, 2, 4})
    check_out(project, [expected])
    check_quiet(round)
    if result.code:
        round.count("full disks")
        if not any(word in result.text.lower() for word in ("room", "space", "os error 28", "free", "enospc")):
            raise Finding("full disk not named", "the run failed and does not say that there is no room", result)
    for reader in (("artifacts", "list"), ("runs", "list"), ("artifacts", "verify")):
        if rng.random() < 0.5:
            # Nothing is damaged; a reader may need room itself (4).
            project.call(*reader, codes={0, 4})


def small_files(round, project, expected):
    for _ in range(round.rng.randint(1, 3)):
        result = project.run(codes={0, 1, 2, 4}, limit_file_size=round.rng.choice([300, 5_000, 60_000, 400_000]))
        round.count("full disks", result.code != 0)
        check_out(project, [expected])
        check_quiet(round)
    project.run()
    check_settled(project, expected)


def size_of(folder):
    total = 0
    for place, folders, names in os.walk(folder):
        total += 4096 * len(folders)
        total += sum((os.lstat(os.path.join(place, name)).st_size + 4095) // 4096 * 4096 for name in names)
    return total


def skip_special(folder, names):
    return [name for name in names if not (os.path.isdir(p := os.path.join(folder, name)) or os.path.isfile(p) or os.path.islink(p))]


def mount(source, place, kind, flags, options):
    if LIBC.mount(source.encode(), place.encode(), kind.encode(), flags, options.encode()) != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error), place)


def can_mount():
    """Whether this process is in a mount namespace of its own and may mount there (`enter_namespace`)."""
    return entered


entered = False


def enter_namespace():
    """Gives this process mounts of its own, which go with it. Needs root, or user namespaces. Whether it worked."""
    global entered
    user, group = os.getuid(), os.getgid()
    flags = CLONE_NEWNS if user == 0 else CLONE_NEWNS | CLONE_NEWUSER
    if LIBC.unshare(flags) != 0:
        return False
    try:
        if user != 0:
            for name, text in (("setgroups", "deny"), ("uid_map", f"0 {user} 1"), ("gid_map", f"0 {group} 1")):
                with open(f"/proc/self/{name}", "w") as file:
                    file.write(text)
        mount("none", "/", "none", MS_REC | MS_PRIVATE, "")
    except OSError:
        return False
    entered = True
    return True
