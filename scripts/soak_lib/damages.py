"""Damage to random files of a store."""
import glob
import os
import re
import shutil

from .snapshot import read_regular

# Area -> how often it is chosen, and the paths that belong to it.
AREAS = {
    # Manifests and objects of list items of unfinished work: see `unfinished_items`.
    "item": (6, lambda path: False),
    "object": (4, lambda path: path.startswith("objects-v1/")),
    "manifest": (3, lambda path: path.startswith("artifacts-v1/")),
    "action": (3, lambda path: path.startswith("actions-v1/")),
    "tag": (1, lambda path: path.startswith(("tags-v1/", "pins-v1/"))),
    "stat": (1, lambda path: path.startswith("stat-v1/")),
    "items": (4, lambda path: path.startswith("work-v1/") and path.endswith("/items.jsonl")),
    "events": (3, lambda path: path.startswith("work-v1/") and path.endswith("/events.jsonl")),
    "state": (6, lambda path: path.startswith("work-v1/") and "/state/" in path),
    "work": (2, lambda path: path.startswith("work-v1/")),
    "run": (3, lambda path: path.startswith("runs-v1/") and path.endswith(("/resolved.json", "/events.jsonl"))),
    "run, other": (1, lambda path: path.startswith("runs-v1/")),
    "index": (1, lambda path: path.startswith("index-v1/")),
    "lock": (1, lambda path: path.startswith("locks-v1/") or path.endswith("lock")),
    "format": (0.3, lambda path: path == "format"),
}
# What is done to a file -> how often.
WAYS = {
    "flip": 6, "cut": 2, "zero": 2, "empty": 1, "append": 1, "swap": 1, "garbage": 1, "delete": 2,
    "folder": 1, "dangling link": 1, "foreign link": 1, "fifo": 1,
}
# Where a refusal that names the damaged path is as good as a repair: nothing there can be made again, or somebody may hold it.
MAY_REFUSE = {"lock", "format", "items", "events", "state", "work"}
# What `artifacts verify` promises to notice.
VERIFIED = {"item", "object", "manifest", "action", "tag"}


class Damage:
    """One damage that was done.

    area     a key of AREAS
    way      what was done
    path     the file, relative to the store
    changed  whether a reader gets other bytes than before, or none; false for a file that is gone
    gone     whether the file was removed
    """

    def __init__(self, area, way, path, changed, gone):
        self.area, self.way, self.path, self.changed, self.gone = area, way, path, changed, gone

    def __str__(self):
        return f"{self.area}: {self.way} {self.path}"


def unfinished_items(store):
    """Paths of the manifests and objects that the journals of unfinished work name."""
    found = set()
    for journal in glob.glob(os.path.join(store, "work-v1/*/items.jsonl")):
        try:
            for artifact in re.findall(r'"artifact":"([0-9a-f]{64})"', read_regular(journal).decode(errors="replace")):
                manifest = f"artifacts-v1/{artifact[:2]}/{artifact[2:]}"
                found.add(manifest)
                text = read_regular(os.path.join(store, manifest)).decode(errors="replace")
                found.update(f"objects-v1/{digest[:2]}/{digest[2:]}" for digest in re.findall(r'"digest":"([0-9a-f]{64})"', text))
        except OSError:
            pass
    return found


def files_below(store):
    found = []
    for place, _, names in os.walk(store):
        found += [os.path.relpath(os.path.join(place, name), store) for name in names]
    return sorted(path for path in found if not path.startswith(("quarantine/", "tmp/")))


def random_damage(rng, store, foreign, kept):
    """Damages one random file; None if nothing fits. `foreign` is a file outside, for links; `kept` takes a copy of what was."""
    paths = [path for path in files_below(store) if os.path.isfile(os.path.join(store, path)) and not os.path.islink(os.path.join(store, path))]
    areas = {}
    for path in paths:
        for area, (_, belongs) in AREAS.items():
            if belongs(path):
                areas.setdefault(area, []).append(path)
                break
    if "item" in AREAS and (items := unfinished_items(store) & set(paths)):
        areas["item"] = sorted(items)
    if not areas:
        return None
    area = rng.choices(list(areas), [AREAS[area][0] for area in areas])[0]
    path = rng.choice(areas[area])
    place = os.path.join(store, path)
    before = read_regular(place)
    os.makedirs(kept, exist_ok=True)
    with open(os.path.join(kept, path.replace("/", "%")), "wb") as file:
        file.write(before)
    way = rng.choices(list(WAYS), WAYS.values())[0]
    change(rng, way, place, before, foreign, [os.path.join(store, other) for other in areas[area] if other != path])
    try:
        changed = read_regular(place) != before
    except OSError:
        changed = True
    return Damage(area, way, path, changed and way != "delete", way == "delete")


def change(rng, way, place, before, foreign, others):
    if way in ("delete", "folder", "dangling link", "foreign link", "fifo"):
        os.remove(place)
    if way == "folder":
        os.mkdir(place)
        if rng.random() < 0.5:
            os.mkdir(os.path.join(place, "inside"))
    elif way == "dangling link":
        os.symlink(place + "-is-not-there", place)
    elif way == "foreign link":
        os.symlink(foreign, place)
    elif way == "fifo":
        os.mkfifo(place)
    elif way == "flip" and before:
        content = bytearray(before)
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        overwrite(place, content)
    elif way == "cut" and before:
        overwrite(place, before[: rng.randrange(len(before))])
    elif way == "empty":
        overwrite(place, b"")
    elif way == "zero" and before:
        start = rng.randrange(len(before))
        end = rng.randint(start, min(len(before), start + rng.choice([1, 100, 10**9])))
        overwrite(place, before[:start] + bytes(end - start) + before[end:])
    elif way == "append":
        overwrite(place, before + rng.choice([b"\0", b"\n", b"{}\n", rng.randbytes(rng.randint(1, 3000))]))
    elif way == "swap" and others:
        overwrite(place, read_regular(rng.choice(others)))
    elif way == "garbage":
        overwrite(place, rng.randbytes(rng.randint(0, 2 * len(before) + 5)))


def overwrite(place, content):
    """In place, as a broken disk would do it: same inode, same times, same mode."""
    found = os.stat(place)
    os.chmod(place, 0o644)
    with open(place, "r+b") as file:
        file.truncate(0)
        file.write(content)
    os.chmod(place, found.st_mode & 0o7777)
    os.utime(place, ns=(found.st_atime_ns, found.st_mtime_ns))


def remove(place):
    if os.path.isdir(place) and not os.path.islink(place):
        shutil.rmtree(place)
    elif os.path.lexists(place):
        os.remove(place)
