"""One round of a soak test: its folder, its random numbers, its notes."""
import collections
import os
import random
import time

from .pipelines import write
from .project import Project
from .snapshot import Snapshot


class Round:
    """Everything random comes from `rng`, which the seed, the round's number and its kind decide."""

    def __init__(self, seed, number, kind, folder, binary):
        self.rng = random.Random(f"{seed} {number} {kind}")
        self.kind = kind
        self.folder = folder
        self.binary = binary
        # Seconds that any command may take before it counts as a hang; raised by what an undisturbed run takes.
        self.limit = 90
        # Seconds that the slowest undisturbed run of this round took.
        self.seconds = 0.0
        # Engine, guard and supervisor were killed at once: the next engine ends what a stage left in the background.
        self.all_killed = False
        self.counts = collections.Counter()
        self.began = time.monotonic()
        os.makedirs(folder)
        self.notes = open(os.path.join(folder, "notes.txt"), "w", buffering=1)

    def note(self, text):
        self.notes.write(f"{time.monotonic() - self.began:9.3f} {text}\n")

    def count(self, what, number=1):
        self.counts[what] += number

    def project(self, name, pipeline, store=None):
        """A new project with the files of `pipeline`."""
        folder = os.path.join(self.folder, name)
        pipeline.write(folder)
        return Project(self, folder, store)

    def expect(self, pipeline, name="undisturbed", sets=(), edits=()):
        """What an undisturbed run of `pipeline`, in a project and store of its own, makes. `edits` are (file, content)."""
        project = self.project(name, pipeline)
        for file, content in edits:
            write(os.path.join(project.folder, file), content)
        project.sets = list(sets)
        since = time.monotonic()
        project.run()
        seconds = time.monotonic() - since
        self.seconds = max(self.seconds, seconds)
        self.limit = max(self.limit, 60 + 30 * seconds)
        self.note(f"{name}: {pipeline}, {seconds:.2f} s undisturbed")
        return Snapshot(project)
