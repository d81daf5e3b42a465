"""Rounds of kind `damage`: files of a finished or interrupted store are damaged; then everything must be made again, or refused."""
import os

from .damages import MAY_REFUSE, VERIFIED, random_damage, remove
from .disturb import start_disturbed, stop_at_work
from .finding import Finding
from .pipelines import random_pipeline
from .project import DOCUMENTED, Project
from .settle import check_quiet, check_settled
from .snapshot import check_out, listed, read_regular

READERS = [
    ("artifacts", "list"),
    ("artifacts", "list", "--json"),
    ("artifacts", "du"),
    ("artifacts", "tags"),
    ("artifacts", "gc", "--dry-run"),
    ("artifacts", "show", "latest:result-0"),
    ("artifacts", "lineage", "latest:result-0"),
    ("runs", "list"),
    ("runs", "compare", "latest"),
    ("plan", *Project.file),
    ("validate", *Project.file),
]


def damage_round(round):
    rng = round.rng
    pipeline = random_pipeline(rng, train=0.6)
    expected = round.expect(pipeline)
    project = round.project("disturbed", pipeline)
    finished = rng.random() < 0.3
    if finished:
        project.run()
        if rng.random() < 0.5:
            tag(project, expected)
    else:
        for _ in range(rng.choice([1, 1, 2, 3])):
            stop = stop_at_work if pipeline.trains and rng.random() < 0.8 else start_disturbed
            code = stop(project, "run", *project.file)
            check_quiet(round)
            if code == 0:
                break
    for _ in range(rng.randint(1, 2)):
        damage_and_recover(round, project, expected)


def tag(project, expected):
    artifact = project.round.rng.choice(sorted(expected.artifacts))
    project.call("artifacts", "tag", "mine", f"@{artifact}")
    project.call("artifacts", "pin", f"@{artifact}")


def damage_and_recover(round, project, expected):
    rng = round.rng
    foreign = os.path.join(round.folder, "foreign")
    content = rng.randbytes(500)
    with open(foreign, "wb") as file:
        file.write(content)
    lines = run_lines(project)
    damages = []
    for _ in range(rng.choice([1, 1, 1, 2, 6])):
        damage = random_damage(rng, project.store, foreign, os.path.join(round.folder, "before"))
        if damage is not None:
            round.note(f"damages {damage}")
            round.count("damages")
            damages.append(damage)
    look(round, project, damages)
    check_out(project, [expected])
    run_again(round, project, expected, damages)
    check_lines(project, lines, damages)
    if read_regular(foreign) != content:
        raise Finding("foreign file", "a file outside the store, to which a link pointed, was changed")
    if any(damage.area == "index" for damage in damages) and rng.random() < 0.5:
        project.call("artifacts", "reindex")
    # What no stage has read since may be damaged still: a hit does not read every byte. A repair finds it.
    project.call("artifacts", "verify", "--repair")
    project.run()
    check_settled(project, expected)


def look(round, project, damages):
    """Commands that look at the damaged store, and sometimes its repair."""
    rng = round.rng
    blocked = any(damage.area in ("lock", "format") for damage in damages)
    if rng.random() < 0.5:
        code = project.call("artifacts", "verify", codes={0, 6, 4} if blocked else {0, 6}).code
        missed = [damage for damage in damages if damage.area in VERIFIED and damage.changed]
        if code == 0 and missed and is_named(project, missed):
            raise Finding("damage not noticed", f"`artifacts verify` says that the store is sound after {missed[0]}")
    for reader in rng.sample(READERS, rng.randint(0, 4)):
        project.call(*reader, codes=DOCUMENTED)
    if rng.random() < 0.4:
        project.call("artifacts", "verify", "--repair", codes={0, 4} if blocked else {0})
        if not blocked:
            project.call("artifacts", "verify")


def is_named(project, damages):
    """Whether one of the damaged files is still where it was: another reader may have put it away already."""
    return any(os.path.lexists(os.path.join(project.store, damage.path)) for damage in damages)


def run_again(round, project, expected, damages):
    """`resume` or `run`, then `run`, until the run ends with 0; follows the advice where a refusal is allowed."""
    rng, ids = round.rng, project.run_ids()
    if ids and rng.random() < 0.4:
        spoiled = any(damage.area in MAY_REFUSE or damage.area.startswith("run") for damage in damages)
        recorded = os.path.exists(os.path.join(project.store, "runs-v1", ids[-1], "resolved.json"))
        result = project.call("resume", ids[-1], codes={0} if recorded and not spoiled else {0, 1, 2, 3, 4, 5})
        if result.code:
            check_refusal(result, damages, ids[-1:])
        check_out(project, [expected])
        check_quiet(round)
    for _ in range(len(damages) + 1):
        left = [damage for damage in damages if damage.area in MAY_REFUSE]
        result = project.run(codes={0, 1, 4} if left else {0})
        check_out(project, [expected])
        check_quiet(round)
        if result.code == 0:
            return
        check_refusal(result, left, ())
        round.count(f"refusals of a damaged {left[0].area}")
        for damage in left:
            put_away(project, damage)
            round.note(f"puts away {damage.path}")
            damages.remove(damage)
    raise Finding("refused for ever", "a run is still refused after everything damaged was put away")


def check_refusal(result, damages, names):
    """A refusal says where, and what to do: it names a damaged file, its key's unfinished work, or the run."""
    places = [damage.path for damage in damages]
    places += ["/".join(path.split("/")[:2]) for path in places if path.startswith("work-v1/")]
    if not any(place in result.text for place in [*places, *names]):
        raise Finding("refused without a place", f"{result.title} names none of the damaged files", result)
    if "help:" not in result.text and "hint:" not in result.text:
        raise Finding("refused without a way out", f"{result.title} says nothing about what to do", result)


def put_away(project, damage):
    """As the advice says: unfinished work is thrown away as by `--fresh`; a lock or the format is made anew."""
    parts = damage.path.split("/")
    if parts[0] == "work-v1":
        remove(os.path.join(project.store, *parts[:2]))
    else:
        remove(os.path.join(project.store, damage.path))
        if damage.area == "format":
            with open(os.path.join(project.store, "format"), "w") as file:
                file.write("1\n")


def run_lines(project):
    """The lines of all runs' journals, by file."""
    found = {}
    for run in project.run_ids():
        path = f"runs-v1/{run}/events.jsonl"
        try:
            found[path] = read_regular(os.path.join(project.store, path)).splitlines()
        except OSError:
            pass
    return found


def check_lines(project, before, damages):
    """Of a run's journal with one flipped bit, no other line is lost: it stays, or is in quarantine/."""
    flipped = [damage.path for damage in damages if damage.way == "flip" and damage.path in before]
    if len(flipped) != 1 or len(damages) != 1:
        return
    path = flipped[0]
    folder = os.path.dirname(os.path.join(project.store, path))
    places = [os.path.join(folder, name) for name in listed(folder)]
    places += [os.path.join(place, name) for place, _, names in os.walk(os.path.join(project.store, "quarantine")) for name in names]
    kept = set()
    for place in places:
        try:
            kept.update(read_regular(place).splitlines())
        except OSError:
            pass
    lost = [line for line in before[path] if line not in kept]
    # The flipped bit may be that of a line's end, which makes one line of two.
    if len(lost) > 2:
        raise Finding("record lost", f"one bit of {path} was flipped, and {len(lost)} of {len(before[path])} lines are gone")
