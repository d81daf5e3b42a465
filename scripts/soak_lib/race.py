"""Rounds of kind `race`: several engines on one store, beside commands that read, verify, repair and collect."""
import os
import shutil
import time

from .finding import Finding
from .pipelines import random_pipeline
from .settle import check_quiet, check_settled
from .snapshot import Snapshot, check_out, listed, tree

# `gc` may find something being committed for a minute; what `export` names may not be made yet, or be collected.
BUSY = {0, 4}


def race_round(round):
    rng = round.rng
    pipeline = random_pipeline(rng, slow=rng.choice([0.2, 1]), train=0.3)
    salts = pipeline.salts[: rng.randint(1, 3)]
    expected = {salt: round.expect(pipeline, f"undisturbed-{salt}", ["--set", f"params.salt={salt}"]) for salt in salts}
    store = os.path.join(round.folder, "shared-store")
    projects = []
    for number in range(rng.randint(2, 4)):
        if projects and rng.random() < 0.25:
            # A second engine in the same project, with the same params.
            projects.append(projects[-1])
            continue
        project = round.project(f"project-{number}", pipeline, store)
        project.salt = rng.choice(salts)
        project.sets = ["--set", f"params.salt={project.salt}"]
        projects.append(project)
    collects = rng.random() < 0.3
    race(round, projects, expected, observers(round, projects[0], expected, collects))
    check_quiet(round)
    quarantined = listed(os.path.join(store, "quarantine"))
    if quarantined:
        raise Finding("sound files quarantined", f"nothing was damaged, and quarantine/ holds {', '.join(quarantined[:8])}")
    if not collects:
        check_once(projects[0])
    others = [expected[project.salt] for project in projects]
    if collects:
        for project in dict.fromkeys(projects):
            project.run()
    for project in dict.fromkeys(projects):
        project.run()
        check_settled(project, expected[project.salt], others)


def race(round, projects, expected, loops):
    """Runs all engines at once, and each loop of observing commands until the last engine has ended."""
    round.note(f"{len(projects)} engines, {len(loops)} loops beside them")
    engines = []
    for project in projects:
        engines.append(project.start_run())
        time.sleep(round.rng.choice([0, 0, 0.05, 0.2]) * round.rng.random())
    since = time.monotonic()
    watched = [None] * len(loops)
    while any(engine.running() for engine in engines) and time.monotonic() - since < round.limit:
        for number, loop in enumerate(loops):
            if watched[number] is None:
                watched[number] = loop()
            command, codes, check = watched[number]
            if not command.running():
                check(command.finish(codes, round.limit))
                round.count("races")
                watched[number] = loop()
        time.sleep(0.005)
    for engine in engines:
        engine.finish({0}, round.limit)
    for command, codes, check in filter(None, watched):
        check(command.finish(codes, round.limit))
    round.count("races", len(engines))
    for project in projects:
        check_out(project, [expected[project.salt]])


def observers(round, project, expected, collects):
    """Functions that start a command and say which exit codes it may have, and what to look at then."""
    rng, snapshots = round.rng, list(expected.values())

    def simple(*arguments, codes=(0,)):
        return lambda: (project.start(*arguments), set(codes), lambda result: None)

    def verify():
        def check(result):
            problems = result.json()["problems"]
            if problems:
                raise Finding("false alarm", f"`artifacts verify` beside runs: {problems[:4]}", result)

        return project.start("artifacts", "verify", "--json"), {0, 6}, check

    def repair():
        def check(result):
            found = result.json()
            if found["problems"] or found["repaired"]["quarantined"] or found["repaired"]["forgotten"]:
                raise Finding("false repair", f"`artifacts verify --repair` beside runs: {found['problems'][:4]} {found['repaired']}")

        return project.start("artifacts", "verify", "--repair", "--json"), {0, 6}, check

    def export():
        to = os.path.join(round.folder, f"export-{time.monotonic_ns()}")

        def check(result):
            files = tree(to)
            shutil.rmtree(to, ignore_errors=True)
            if result.code == 0 and files and not any(is_result(files, snapshot) for snapshot in snapshots):
                raise Finding("wrong export", f"`{result.title}` wrote what no run has as result-0: {sorted(files)[:8]}")

        # Nothing may be made yet (2), or collected (4); a list is no artifact (2).
        return project.start("artifacts", "export", "latest:result-0", "--to", to), {0, 2} | ({4} if collects else set()), check

    choices = [
        verify,
        repair,
        export,
        simple("artifacts", "list", "--json"),
        simple("runs", "list", "--json"),
        simple("artifacts", "du"),
        simple("plan", *project.file, *project.sets),
        simple("artifacts", "reindex"),
    ]
    chosen = rng.sample(choices, rng.randint(1, 3))
    if collects:
        chosen.append(simple("artifacts", "gc", "--grace", "0s", "--max-size", "1B", codes=BUSY))
    return chosen


def is_result(files, snapshot):
    """Whether `files` are those of result-0; of a list with one item, those of the item."""
    result = below(snapshot.out, "soak/result-0/")
    items = {path.split("/")[0] for path in result}
    return files == result or (len(items) == 1 and files == below(result, f"{items.pop()}/"))


def below(files, prefix):
    return {path[len(prefix):]: content for path, content in files.items() if path.startswith(prefix)}


def check_once(project):
    """Each key ran once, in whichever engine: nobody was killed, and nothing collected."""
    started = {}
    for run in project.run_ids():
        record = project.call("runs", "show", run, "--json").json()["run"]
        for name, stage in record["stages"].items():
            for instance in stage["instances"]:
                if instance.get("started"):
                    started.setdefault(instance["key"], []).append(f"{name} in {run}")
    twice = {key: places for key, places in started.items() if len(places) > 1}
    if twice:
        raise Finding("ran twice", f"{len(twice)} keys were worked on by two engines: {list(twice.items())[:3]}")
