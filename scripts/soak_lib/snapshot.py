"""What a project and its store hold, read without olmo-pipe's own readers, and how two of them differ."""
import hashlib
import json
import os
import stat

from .finding import Finding

# Says which run a folder of results is from; differs from run to run.
MARKER = ".olmo-pipe.json"


class Snapshot:
    """The results of one finished run.

    outputs    stage and item -> key and outputs, as the run's record has them
    artifacts  digest -> path -> everything that the manifest says, less where sources are
    objects    digest -> SHA-256 of the file's bytes
    out        path below out/ -> SHA-256 and executable bit
    """

    def __init__(self, project):
        self.outputs = outputs(project.last_run())
        self.artifacts = artifacts(project.store)
        self.objects = objects(project.store, self.artifacts)
        self.out = tree(project.out)

    def check(self, expected, also=(), strict=True):
        """Raises a finding unless this is what `expected` is. The artifacts of `also`, snapshots of other runs, may be there too.

        If not `strict`, the store may hold others as well.
        """
        compare("a stage's outputs", self.outputs, expected.outputs)
        compare("the files in out/", self.out, expected.out)
        for what in ("artifacts", "objects"):
            found, wanted = getattr(self, what), dict(getattr(expected, what))
            known = {key: value for other in also for key, value in getattr(other, what).items()}
            for key in found.keys() - wanted.keys():
                if not strict or key in known:
                    wanted[key] = known.get(key, found[key])
            compare(f"the {what} in the store", found, wanted)


def compare(what, found, expected):
    if found == expected:
        return
    lines = []
    for key in sorted(found.keys() | expected.keys()):
        have, want = found.get(key), expected.get(key)
        if have != want:
            lines.append(f"{key}: is {str(have)[:400]}, not {str(want)[:400]}")
    raise Finding("wrong result", f"{what}: {len(lines)} differences\n    " + "\n    ".join(lines[:8]))


def outputs(run):
    found = {}
    for name, stage in run["stages"].items():
        for instance in stage["instances"]:
            found[f"{name}[{instance.get('item') or ''}]"] = {"key": instance.get("key"), "outputs": instance.get("outputs")}
    return found


def artifacts(store):
    """Every readable manifest in the store."""
    found = {}
    for digest, path in sharded(os.path.join(store, "artifacts-v1")):
        try:
            body = json.loads(read_regular(path))["body"]
            files = {name: {key: value for key, value in entry.items() if key != "source"} for name, entry in body["files"].items()}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise Finding("damage left", f"the manifest {path} cannot be read: {error}") from None
        sources = {name for name, entry in body["files"].items() if "source" in entry}
        found[digest] = {"type": body["type"], "files": files, "sources": sorted(sources)}
    return found


def objects(store, artifacts):
    """The SHA-256 of every object that a manifest names."""
    found = {}
    for artifact, manifest in artifacts.items():
        for name, entry in manifest["files"].items():
            digest = entry["digest"]
            if name in manifest["sources"] or digest in found:
                continue
            path = os.path.join(store, "objects-v1", digest[:2], digest[2:])
            try:
                found[digest] = hashlib.sha256(read_regular(path)).hexdigest()
            except OSError as error:
                raise Finding("damage left", f"{name} of artifact {artifact}: {path} cannot be read: {error}") from None
    return found


def sharded(folder):
    """(digest, path) of the files in `folder/ab/cdef…`."""
    for shard in listed(folder):
        place = os.path.join(folder, shard)
        if os.path.isdir(place):
            yield from ((shard + name, os.path.join(place, name)) for name in listed(place))


def listed(folder):
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []


def read_regular(path):
    """The bytes of a regular file; anything else is an error, and nothing is waited for."""
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with open(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise OSError("not a regular file")
        return file.read()


def tree(folder):
    """All files below `folder`: relative path -> SHA-256 and executable bit; of anything else its kind."""
    found = {}
    for place, folders, names in os.walk(folder):
        # A link to a folder is no result, and would be followed by nobody here.
        for name in names + [name for name in folders if os.path.islink(os.path.join(place, name))]:
            path = os.path.join(place, name)
            relative = os.path.relpath(path, folder)
            if name == MARKER and len(relative.split("/")) <= 4:
                continue
            try:
                executable = "x" if os.lstat(path).st_mode & 0o100 else "-"
                found[relative] = f"{hashlib.sha256(read_regular(path)).hexdigest()} {executable}"
            except OSError as error:
                found[relative] = f"unreadable: {error}"
    return found


def check_out(project, allowed):
    """At any moment, a folder of results that is there holds exactly what one of the snapshots `allowed` has."""
    found = by_result(tree(project.out))
    choices = [by_result(snapshot.out) for snapshot in allowed]
    for result, files in found.items():
        # A kill may leave a half-made folder, whose name begins with a dot, until the next run.
        if not os.path.basename(result).startswith(".") and all(files != choice.get(result) for choice in choices):
            compare(f"out/{result}", files, choices[0].get(result, {}))


def by_result(files):
    """Files of each folder EXPERIMENT/RESULT."""
    found = {}
    for path, content in files.items():
        parts = path.split("/")
        found.setdefault("/".join(parts[:2]), {})["/".join(parts[2:])] = content
    return found
