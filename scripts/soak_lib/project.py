"""A project on disk, and the commands of olmo-pipe in it."""
import json
import os
import re
import resource
import signal
import subprocess
import time

from . import processes
from .finding import Finding
from .pipelines import EXPERIMENT

# docs/exit-codes.md, less 70: "a bug in olmo-pipe".
DOCUMENTED = {0, 1, 2, 3, 4, 5, 6, 7, 129, 130, 143}
BUG = re.compile(r"panicked at|RUST_BACKTRACE|stack backtrace|this is a bug in olmo-pipe|memory allocation of|SIGSEGV|internal error")


class Result:
    """How a command ended: `code` is negative for a signal, as in `subprocess`."""

    def __init__(self, title, code, stdout, stderr):
        self.title, self.code, self.stdout, self.stderr = title, code, stdout, stderr

    @property
    def text(self):
        return self.stdout + self.stderr

    def json(self):
        return json.loads(self.stdout)

    def events(self):
        """The events of a command with `--json` that prints one on each line."""
        return [json.loads(line)["event"] for line in self.stdout.splitlines()]


class Running:
    """A command that was started."""

    def __init__(self, project, title, process, outputs):
        self.project, self.title, self.process, self.outputs = project, title, process, outputs
        self.pid = process.pid

    def running(self):
        return self.process.poll() is None

    def finish(self, codes, limit):
        """Waits for the end. Anything but an exit code in `codes` is a finding, and so is a panic or a hang."""
        try:
            code = self.process.wait(limit)
        except subprocess.TimeoutExpired:
            found = [processes.describe(pid) for pid in processes.tree(self.pid)]
            self.project.round.note("hangs:\n  " + "\n  ".join(found))
            processes.end_all(self.project.round.folder)
            self.process.wait()
            raise Finding("hang", f"{self.title} did not end within {limit} s") from None
        stdout, stderr = (read_text(path) for path in self.outputs)
        self.project.round.note(f"{self.title} ended with {code}")
        result = Result(self.title, code, stdout, stderr)
        if bug := BUG.search(result.text):
            raise Finding("panic", f"{self.title} printed {bug.group()!r}", result)
        if code not in codes:
            allowed = ", ".join(map(str, sorted(codes)))
            raise Finding("exit code", f"{self.title} ended with {code}, not with one of {allowed}", result)
        return result


class Project:
    """A project folder with a store, which other projects may share."""

    count = 0
    file = (EXPERIMENT,)

    def __init__(self, round, folder, store=None):
        self.round = round
        self.folder = folder
        self.store = store or os.path.join(folder, ".olmo-pipe")
        self.sets = []

    @property
    def out(self):
        return os.path.join(self.folder, "out")

    def start(self, *arguments, env=None, limit_file_size=None):
        """Starts a command."""
        Project.count += 1
        number = Project.count
        title = f"#{number} olmo-pipe {' '.join(arguments)}"
        logs = os.path.join(self.round.folder, "commands")
        os.makedirs(logs, exist_ok=True)
        outputs = [os.path.join(logs, f"{number:05}.{name}") for name in ("stdout", "stderr")]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("OLMO_PIPE_")}
        environment |= {"OLMO_PIPE_LEASES": os.path.join(self.round.folder, "leases"), "OLMO_PIPE_GRACE_S": "10", "NO_COLOR": "1"}
        argv = [self.round.binary, *arguments, "--store", self.store]
        self.round.note(f"{title}   (in {os.path.basename(self.folder)})")

        def prepare():
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            # A shell may start its background jobs with some of these ignored.
            for name in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGTERM):
                signal.signal(name, signal.SIG_DFL)
            if limit_file_size is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit_file_size, limit_file_size))

        with open(outputs[0], "wb") as stdout, open(outputs[1], "wb") as stderr:
            process = subprocess.Popen(
                argv,
                cwd=self.folder,
                env=environment | (env or {}),
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                start_new_session=True,
                preexec_fn=prepare,
            )
        return Running(self, title, process, outputs)

    def call(self, *arguments, codes=(0,), **options):
        """Runs a command to its end."""
        return self.start(*arguments, **options).finish(set(codes), self.round.limit)

    def start_run(self, *more, **options):
        return self.start("run", *self.file, *self.sets, *more, **options)

    def run(self, *more, codes=(0,), **options):
        return self.start_run(*more, **options).finish(set(codes), self.round.limit)

    def run_ids(self):
        """Ids of the recorded runs, the oldest first, as the folders say."""
        try:
            return sorted(os.listdir(os.path.join(self.store, "runs-v1")))
        except OSError:
            return []

    def last_run(self):
        """The record of the newest run, by `runs show`."""
        return self.call("runs", "show", self.run_ids()[-1], "--json").json()["run"]


def read_text(path):
    with open(path, "rb") as file:
        return file.read().decode(errors="replace")


def timed(action):
    """What `action` returns, and the seconds it took."""
    since = time.monotonic()
    return action(), time.monotonic() - since
