"""Rounds of kind `kill`: a run is killed, stopped and paused at random moments, then run or resumed to its end."""
import os

from .disturb import start_disturbed
from .finding import Finding
from .pipelines import random_pipeline
from .settle import check_quiet, check_settled
from .snapshot import check_out


def kill_round(round):
    rng = round.rng
    pipeline = random_pipeline(rng)
    expected = round.expect(pipeline)
    project = round.project("disturbed", pipeline)
    for _ in range(rng.randint(1, 5)):
        start_disturbed(project, *next_command(project))
        check_quiet(round)
        check_out(project, [expected])
        if rng.random() < 0.15:
            # A kill leaves a store that verifies clean, at any moment.
            project.call("artifacts", "verify")
    recover(project)
    check_settled(project, expected)


def next_command(project):
    """`run`, or `resume` of the newest run if it has a record."""
    rng, ids = project.round.rng, project.run_ids()
    if ids and rng.random() < 0.5 and os.path.exists(os.path.join(project.store, "runs-v1", ids[-1], "resolved.json")):
        return "resume", ids[-1]
    return "run", *project.file, *project.sets


def recover(project):
    """Runs to the end, undisturbed."""
    project.call(*next_command(project))
    if project.last_run()["status"] != "succeeded":
        raise Finding("wrong status", f"a run that ended with 0 is {project.last_run()['status']}")
