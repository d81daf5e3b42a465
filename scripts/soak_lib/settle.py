"""What must hold once a disturbed project has been run to its end."""
import os

from . import processes
from .finding import Finding
from .snapshot import Snapshot, listed

# Far more than a supervisor needs to end a stage, far less than the processes that stages leave in the background live.
QUIET_WITHIN = 20


def check_quiet(round):
    """No process of the round is left, except where the next engine is to end it (docs/running.md)."""
    if round.all_killed:
        round.all_killed = False
        return
    left = processes.wait_until_none(round.folder, QUIET_WITHIN)
    if left:
        found = [processes.describe(pid) for pid in left]
        processes.end_all(round.folder)
        raise Finding("process left", f"{len(found)} processes outlive their engine:\n    " + "\n    ".join(found))


def check_settled(project, expected, also=(), strict=True):
    """The newest run of `project` has made `expected`, the store is sound, and nothing is left over. As `Snapshot.check`."""
    snapshot = Snapshot(project)
    snapshot.check(expected, also, strict)
    check_quiet(project.round)
    check_sound(project)
    listing = project.call("artifacts", "list", "--json").json()["artifacts"]
    listed_digests = {row["digest"] for row in listing}
    if listed_digests != set(snapshot.artifacts):
        raise Finding("wrong listing", f"`artifacts list` and the store differ by {sorted(listed_digests ^ set(snapshot.artifacts))}")
    check_all_cached(project)
    Snapshot(project).check(expected, also, strict)
    junk = listed(os.path.join(project.store, "tmp"))
    if junk:
        raise Finding("junk", f"tmp/ holds {', '.join(junk[:8])}")
    check_quiet(project.round)


def check_sound(project):
    """`artifacts verify` finds nothing."""
    problems = project.call("artifacts", "verify", "--json").json()["problems"]
    # In rounds that edit sources, artifacts of the other content refer to a file that has changed; that is no damage.
    if [problem for problem in problems if problem["damage"] or project.round.kind != "edit"]:
        raise Finding("false alarm or damage", f"`artifacts verify`: {problems[:5]}")


def check_all_cached(project):
    """A second run starts nothing, and `plan` says so before."""
    project.call("plan", *project.file, *project.sets, "--exit-code")
    events = project.run("--json").events()
    other = [event for event in events if event["kind"] in ("started", "failed", "damaged", "skipped", "interrupted", "finished")]
    if other:
        raise Finding("not cached", f"a second run was not all cached: {other[:3]}")
