"""Rounds of kind `edit`: a source or a stage's program changes, or changes and changes back, while a stage reads it."""
import glob
import os
import time

from .finding import Finding
from .pipelines import random_pipeline, write
from .settle import check_quiet, check_settled
from .snapshot import Snapshot, check_out, read_regular


def edit_round(round):
    rng = round.rng
    pipeline = random_pipeline(rng, slow=rng.choice([0.5, 1.5]), train=0.3, fetch=0.6)
    name = rng.choice(pipeline.programs if rng.random() < 0.2 else pipeline.sources)
    if "data/large.txt" in pipeline.sources and rng.random() < 0.8:
        name = "data/large.txt"
    first = project_file(round, pipeline, name)
    second = edited(rng, name, first)
    before = round.expect(pipeline, "undisturbed-before")
    after = round.expect(pipeline, "undisturbed-after", edits=[(name, second)])
    project = round.project("disturbed", pipeline)
    round.note(f"edits {name}")
    for _ in range(rng.randint(1, 3)):
        run_and_edit(round, project, name, (first, second), (before, after))
    # Whatever was published under one content's key meanwhile is found out now, under both.
    for content, expected in ((first, before), (second, after), (first, before)):
        place(project, name, content, rng)
        project.run()
        check_settled(project, expected, [before, after], strict=False)


def project_file(round, pipeline, name):
    if name in pipeline.files:
        content = pipeline.files[name]
        return content if isinstance(content, bytes) else content.encode()
    pipeline.write(os.path.join(round.folder, "sample"))
    return read_regular(os.path.join(round.folder, "sample", name))


def edited(rng, name, content):
    """Another content; a valid one where a stage has to understand it."""
    if name.endswith(".py"):
        return content.replace(b'EDITION = "first"', b'EDITION = "later"')
    if name.endswith(".jsonl"):
        return b"".join(reversed(content.splitlines(keepends=True)))
    if name.endswith(".txt"):
        # Of equal length, all over the file.
        return content.replace(b"amber", b"zzzzz").replace(b"cloud", b"yyyyy").replace(b"1", b"2")
    if rng.random() < 0.5 and content:
        return bytes(byte ^ 1 for byte in content)
    return content + b"more"


def run_and_edit(round, project, name, contents, snapshots):
    """A run during which the file changes to and fro; then it holds the first content, or the second."""
    rng = round.rng
    place(project, name, contents[0], rng)
    times = rng.choice([1, 2, 2, 2, 4, 7])
    run = project.start_run()
    reading = rng.random() < 0.7
    if reading:
        # Until a stage that may read the file was handed its inputs: built-in stages get links to sources, others copies.
        inputs = "cwd/in" if name.endswith((".bin", ".py")) else "in"
        while run.running() and not glob.glob(os.path.join(project.store, f"work-v1/*/attempts/*/{inputs}/*/*")):
            time.sleep(0.002)
    for number in range(times):
        time.sleep(rng.uniform(0, 0.3) if reading else rng.uniform(0, round.seconds / times))
        if not run.running():
            break
        place(project, name, contents[(number + 1) % 2], rng)
        round.note(f"edit {number + 1}")
        round.count("edits")
    # 1: the stage that read it is refused; 5: the source changed before anything ran.
    code = run.finish({0, 1, 5}, round.limit).code
    check_quiet(round)
    check_out(project, snapshots)
    if code == 0:
        made = Snapshot(project).outputs
        if all(made != snapshot.outputs for snapshot in snapshots):
            raise Finding("wrong result", "a run during an edit succeeded with what neither content gives")


def place(project, name, content, rng):
    """Writes the file in one of the ways that editors, git and scripts do."""
    path = os.path.join(project.folder, name)
    found = os.stat(path)
    if rng.random() < 0.5:
        write(path + ".new", content)
        os.rename(path + ".new", path)
    else:
        write(path, content)
    if rng.random() < 0.4:
        os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))
