"""Kills: when, whom, and with what a running engine is disturbed, and which exit codes that allows."""
import glob
import os
import signal
import time

from . import processes

# Points at which the shipped binaries kill themselves (docs/formats.md, "Failure points").
FAILPOINTS = [
    "store.object_temp_written", "store.object_renamed", "store.manifest_temp_written", "store.manifest_renamed",
    "store.folder_taken", "store.action_temp_written", "store.action_renamed", "run.started", "run.stage_started",
    "run.item_committed", "run.stage_committed", "run.finished", "tokenize.part", "train.step", "train.evaluating",
    "train.before_save", "train.saving", "train.saved", "train.last_step",
]
ALL_KILLED = "KILL to the engine and its supervisors"
KILL, TERM, INT, HUP = signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP


def start_disturbed(project, *arguments):
    """Starts a run and disturbs it once, at a random moment; waits for its end. Returns its exit code."""
    round, rng = project.round, project.round.rng
    if rng.random() < 0.15:
        point = f"{rng.choice(FAILPOINTS)}:{rng.randint(1, 4)}"
        round.note(f"failure point {point}")
        run = project.start(*arguments, env={"OLMO_PIPE_FAILPOINT": point})
        # A worker that dies there may fail its stage before it has killed the engine.
        code = run.finish({-KILL, 0, 1}, round.limit).code
        if code != 0:
            round.count("kills")
        return code
    run = project.start(*arguments)
    wait_for_moment(project, run)
    allowed = strike(project, run)
    code = run.finish(allowed, round.limit).code
    return code


def wait_for_moment(project, run):
    """Waits for a random moment of the run: a time, or files that appear in the store."""
    rng = project.round.rng
    if rng.random() < 0.5:
        seconds = rng.uniform(0, 1.1 * project.round.seconds) * rng.choice([0.2, 1, 1])
        end = time.monotonic() + seconds
        return wait_until(project, run, f"{seconds:.3f} s have passed", lambda: time.monotonic() >= end)
    pattern, count = rng.choice([
        ("objects-v1/*/*", rng.randint(1, 40)),
        ("artifacts-v1/*/*", rng.randint(1, 15)),
        ("actions-v1/*/*", rng.randint(1, 10)),
        ("work-v1/*/items.jsonl", 1),
        ("work-v1/*/attempts/*/items/*/*", rng.randint(1, 3)),
        ("work-v1/*/attempts/*/cwd/out/*/*", rng.randint(1, 4)),
        ("work-v1/*/state/*", rng.randint(1, 3)),
        ("tmp/*/*", 1),
        ("../out/*/.*", 1),
        ("../out/*/*", rng.randint(1, 3)),
    ])
    pattern = os.path.join(project.store, pattern)
    wait_until(project, run, f"{count} of {pattern} are there", lambda: len(glob.glob(pattern)) >= count)
    time.sleep(rng.choice([0, 0, rng.uniform(0, 0.05), rng.uniform(0, 0.3)]))


def wait_until(project, run, what, reached):
    project.round.note(f"waits until {what}")
    while run.running() and not reached():
        time.sleep(0.002)


def stop_at_work(project, *arguments):
    """Starts a run and stops it once a built-in stage has saved unfinished work: parts, a state or checkpoints."""
    round, rng = project.round, project.round.rng
    saved = parts_of_tokens if rng.random() < 0.25 else list_items
    count, before = rng.randint(1, 3), saved(project.store)
    run = project.start(*arguments)
    reached = lambda: len(saved(project.store) - before) >= count
    wait_until(project, run, f"{count} more {saved.__name__} are saved", reached)
    time.sleep(rng.choice([0, rng.uniform(0, 0.03)]))
    number, code = rng.choice([(KILL, -KILL), (TERM, 143), (INT, 130)])
    round.note(f"strikes: {number.name} to the engine")
    round.count("kills", run.running())
    processes.send(run.pid, number, round.folder)
    return run.finish({code, -number, 0}, round.limit).code


def parts_of_tokens(store):
    return set(glob.glob(os.path.join(store, "work-v1/*/state/tokens*")))


def list_items(store):
    journals = glob.glob(os.path.join(store, "work-v1/*/items.jsonl"))
    return {(path, line) for path in journals for line in range(processes.read(path).count(b"\n"))}


def strike(project, run):
    """Sends random signals to the engine, its supervisors and their stages. Returns the exit codes that may follow."""
    round, rng = project.round, project.round.rng
    name, action = rng.choices(*zip(*((kind, weight) for kind, weight in STRIKES)))[0]
    round.note(f"strikes: {name}")
    if not run.running():
        return {0}
    round.count("kills")
    round.all_killed = name == ALL_KILLED
    tree = processes.tree(run.pid)
    supervisors = [pid for pid in tree if processes.is_supervisor(pid)]
    stages = [pid for pid in tree[1:] if pid not in supervisors]

    def send(pids, number):
        for pid in pids:
            processes.send(pid, number, round.folder)

    return action(rng, send, run.pid, supervisors, stages)


def engine(number, code):
    """`code`, or death of the signal itself: before the engine watches for it, and after its stages are done."""

    def action(rng, send, engine, supervisors, stages):
        send([engine], number)
        return {code, -number, 0}

    return action


def twice(number, code):
    def action(rng, send, engine, supervisors, stages):
        send([engine], number)
        time.sleep(rng.choice([0, 0.01, 0.1, 0.3]))
        send([engine], number)
        return {code, -number, 0}

    return action


def stop_then_kill(rng, send, engine, supervisors, stages):
    send([engine], TERM)
    time.sleep(rng.uniform(0, 0.3))
    send([engine], KILL)
    return {-KILL, 143, -TERM, 0}


def tree(rng, send, engine, supervisors, stages):
    pids = [engine, *supervisors, *stages]
    rng.shuffle(pids)
    send(pids, KILL)
    return {-KILL, 0, 1}


def engine_and_supervisors(rng, send, engine, supervisors, stages):
    pids = [engine, *supervisors]
    rng.shuffle(pids)
    send(pids, KILL)
    return {-KILL, 0, 1}


def one_supervisor(rng, send, engine, supervisors, stages):
    send(supervisors and [rng.choice(supervisors)], KILL)
    return {0, 1}


def one_stage(number):
    def action(rng, send, engine, supervisors, stages):
        send(stages and [rng.choice(stages)], number)
        return {0, 1}

    return action


def pause(rng, send, engine, supervisors, stages):
    """Stops some processes for a while; they go on as if nothing had happened."""
    pids = rng.choice([[engine], supervisors, stages, [engine, *supervisors], [engine, *supervisors, *stages]])
    send(pids, signal.SIGSTOP)
    time.sleep(rng.uniform(0.05, 0.8))
    send(pids, signal.SIGCONT)
    return {0}


def pause_engine_kill_stage(rng, send, engine, supervisors, stages):
    """The engine learns of the death of a stage late, and all at once."""
    send([engine], signal.SIGSTOP)
    send(stages and [rng.choice(stages)], KILL)
    time.sleep(rng.uniform(0.05, 0.5))
    send([engine], signal.SIGCONT)
    return {0, 1}


STRIKES = [
    (("KILL to the engine", engine(KILL, -KILL)), 5),
    (("TERM to the engine", engine(TERM, 143)), 4),
    (("INT to the engine", engine(INT, 130)), 3),
    (("HUP to the engine", engine(HUP, 129)), 2),
    (("ABRT to the engine", engine(signal.SIGABRT, -signal.SIGABRT)), 1),
    (("USR1 to the engine", engine(signal.SIGUSR1, 0)), 1),
    (("INT twice to the engine", twice(INT, 130)), 2),
    (("TERM twice to the engine", twice(TERM, 143)), 2),
    (("TERM, then KILL to the engine", stop_then_kill), 2),
    (("KILL to the whole tree", tree), 4),
    ((ALL_KILLED, engine_and_supervisors), 3),
    (("KILL to a supervisor", one_supervisor), 3),
    (("KILL to a stage", one_stage(KILL)), 3),
    (("TERM to a stage", one_stage(TERM)), 2),
    (("STOP and CONT", pause), 3),
    (("STOP to the engine, KILL to a stage, CONT", pause_engine_kill_stage), 2),
]
