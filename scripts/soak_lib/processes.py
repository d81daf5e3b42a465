"""Processes of a round, found in /proc by the round's folder, and signals to them."""
import os
import signal
import time


def alive(folder):
    """Numbers of all living processes whose command line, environment or current folder names `folder`."""
    needle = os.fsencode(folder)
    found = []
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == os.getpid():
            continue
        place = f"/proc/{name}"
        if needle in read(f"{place}/cmdline") + read(f"{place}/environ") + link(f"{place}/cwd") and state(int(name)) not in "ZX":
            found.append(int(name))
    return sorted(found)


def wait_until_none(folder, seconds):
    """Waits until no process of `folder` lives; those that still live after `seconds`."""
    deadline = time.monotonic() + seconds
    while (found := alive(folder)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return found


def end_all(folder):
    """Kills every process of `folder`."""
    for _ in range(200):
        found = alive(folder)
        if not found:
            return
        for pid in found:
            send(pid, signal.SIGKILL, folder)
        time.sleep(0.05)


def send(pid, number, folder):
    """Sends a signal if `pid` is still a process of `folder`: numbers are used again. Whether it was sent."""
    try:
        handle = os.pidfd_open(pid)
    except OSError:
        return False
    try:
        needle = os.fsencode(folder)
        if needle not in read(f"/proc/{pid}/cmdline") + read(f"/proc/{pid}/environ") + link(f"/proc/{pid}/cwd"):
            return False
        signal.pidfd_send_signal(handle, number)
        return True
    except OSError:
        return False
    finally:
        os.close(handle)


def tree(root):
    """`root` and all its descendants, parents first."""
    children = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            children.setdefault(parent(int(name)), []).append(int(name))
    found = [root]
    for pid in found:
        found.extend(children.get(pid, []))
    return found


def is_supervisor(pid):
    return b"__supervise" in read(f"/proc/{pid}/cmdline").split(b"\0")


def describe(pid):
    """A line for the notes: what the process is and what it waits for."""
    command = read(f"/proc/{pid}/cmdline").replace(b"\0", b" ").decode(errors="replace")[:200]
    call = read(f"/proc/{pid}/syscall").decode(errors="replace").strip()
    channel = read(f"/proc/{pid}/wchan").decode(errors="replace")
    return f"{pid} state {state(pid)} parent {parent(pid)} in {channel or '?'} call {call or '?'}: {command}"


def state(pid):
    fields = stat(pid)
    return fields[0] if fields else "X"


def parent(pid):
    fields = stat(pid)
    return int(fields[1]) if fields else 0


def stat(pid):
    """The fields of /proc/PID/stat after the name, which may hold spaces and parentheses."""
    return read(f"/proc/{pid}/stat").decode(errors="replace").rpartition(")")[2].split()


def read(path):
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""


def link(path):
    try:
        return os.fsencode(os.readlink(path))
    except OSError:
        return b""
