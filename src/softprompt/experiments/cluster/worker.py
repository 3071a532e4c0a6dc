"""A worker: one process of a Ray cluster with a copy of the backbone on its device. It imports nothing of Ray.

It loads the backbone first. The driver calls `begin` once for each batch of jobs and `turn` after `turn`: a turn brings
the answer to the worker's request, if it made one, and returns what has happened since. A worker requests a job
whenever it has a place free. Its runs lie in a folder of its own, wherever it runs; what is written there goes to the
driver as bytes, so the machines need no file system in common.
"""

import os
import queue
import shutil
import socket
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from softprompt.backbones import Backbone
from softprompt.errors import Interrupted, SoftPromptError
from softprompt.experiments.jobs import Job
from softprompt.experiments.runner import JobBatch, train_jobs
from softprompt.recipes import Recipe, Setting
from softprompt.runs.run_folder import FINISHED
from softprompt.runtime.files import Files, read_folder, write_folder
from softprompt.runtime.plugins import import_modules
from softprompt.training.candidate import Best, HistoryEntry
from softprompt.training.loop import Tuned
from softprompt.training.run import Run, open_backbone

PATIENCE = 0.5
"""Seconds that a turn waits for news; at most so long it takes until a worker learns of Ctrl-C."""
Event = Literal["step", "evaluation", "end"]


@dataclass(frozen=True)
class WorkItem:
    """A job for a worker: its name, and the files of its folder at the driver."""

    name: str
    files: Files


@dataclass(frozen=True)
class Ready:
    """The backbone is loaded."""

    machine: str
    process: int
    device: str


@dataclass(frozen=True)
class JobRequest:
    """A place is free."""


@dataclass(frozen=True)
class TrainingNews:
    """An event for the driver's listener; `history` is what has been added since the last."""

    event: Event
    name: str
    recipe: Recipe
    step: int
    best: Best | None
    stopped: str | None
    history: list[HistoryEntry]


@dataclass(frozen=True)
class Saved:
    """A checkpoint. `done`: the run has taken its last step, and `Ended` will follow."""

    name: str
    step: int
    done: bool
    files: Files


@dataclass(frozen=True)
class Ended:
    """A finished run, and its failure, if any."""

    name: str
    failure: str | None
    files: Files


@dataclass(frozen=True)
class Note:
    """A warning."""

    text: str


@dataclass(frozen=True)
class Idle:
    """Nothing is left of what was begun; `error` is what ended it, if anything did."""

    error: SoftPromptError | None = None


News = Ready | JobRequest | TrainingNews | Saved | Ended | Note | Idle


class Worker:
    """The object that the driver calls, one call at a time; training runs in a thread of its own."""

    def __init__(self, setting: Setting, place: str, imports: Sequence[str] = ()) -> None:
        """Load the backbone from `place`, a name or path that holds on this machine, after importing `imports`."""
        self.setting, self.place, self.imports = setting, place, imports
        self.backbone: Backbone | None = None
        """Loaded before anything is begun."""
        self.folder = Path(tempfile.mkdtemp(prefix="softprompt-"))
        self.news: queue.Queue[News] = queue.Queue()
        self.answers: queue.Queue[WorkItem | None] = queue.Queue()
        self.stopping = threading.Event()
        self.bug: BaseException | None = None
        self.sent: dict[str, int] = {}
        """Lines of each run's history that the driver has."""
        # A warning printed here is seen by no one: Ray's log of a worker is not shown.
        warnings.showwarning = lambda message, *_, **__: self.news.put(Note(str(message)))
        threading.Thread(target=self._guard, args=(self._load,), daemon=True).start()

    def begin(self, batch: JobBatch, workers: int) -> None:
        """Start on `batch`, of which `workers` workers each get a share; called after `Ready`."""
        backbone = self.backbone
        assert backbone is not None

        def work() -> None:
            # Each job has a folder here too: that of the driver, inside this worker's own.
            known = {job.name: replace(job, folder=Path(f"{self.folder}{job.folder}")) for job in batch.jobs}
            places = share_jobs(len(batch.jobs), workers, batch.places(backbone))
            while self._train(backbone, known, batch, places):
                pass
            self.news.put(Idle())

        self.stopping.clear()
        threading.Thread(target=self._guard, args=(work,), daemon=True).start()

    def turn(self, answers: Sequence[WorkItem | None], stop: bool) -> list[News]:
        """Take the answer to a `JobRequest`, if there is one, and return what is new, within `PATIENCE`."""
        if stop:
            self.stopping.set()
        for answer in answers:
            self.answers.put(answer)
        found: list[News] = []
        try:
            found.append(self.news.get(timeout=PATIENCE))
            while True:
                found.append(self.news.get_nowait())
        except queue.Empty:
            pass
        if self.bug is not None and not found:
            raise self.bug
        return found

    def leave(self) -> None:
        """Remove what is left of its folder."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _guard(self, work: Callable[[], None]) -> None:
        """Do `work`; the error that ends it goes to the driver."""
        try:
            work()
        except Interrupted:
            self.news.put(Idle())
        except SoftPromptError as error:
            self.news.put(Idle(self._portable(error)))
        except BaseException as error:  # noqa: BLE001  # a bug; the next turn raises it
            self.bug = error

    def _load(self) -> None:
        import_modules(self.imports)
        backbone = open_backbone(self.setting.model_copy(update={"backbone": self.place}))
        backbone.name = self.setting.backbone  # as cards name it
        self.backbone = backbone
        self.news.put(Ready(socket.gethostname(), os.getpid(), str(backbone.device)))

    def _train(self, backbone: Backbone, jobs: Mapping[str, Job], batch: JobBatch, places: int) -> int:
        """Train jobs until the driver has no more to give; return their number."""
        count = 0

        def request_jobs() -> Iterator[Job]:
            nonlocal count
            while True:
                self.news.put(JobRequest())
                item = self.answers.get()
                if item is None:
                    return
                count += 1
                job = jobs[item.name]
                self.sent[job.name] = 0
                write_folder(job.folder, item.files, FINISHED)
                yield job

        def send(job: Job, failure: str | None) -> None:
            shown = None if failure is None else failure.replace(str(self.folder), "")
            self.news.put(Ended(job.name, shown, read_folder(job.folder)))
            shutil.rmtree(job.folder)

        def send_checkpoint(run: Run) -> None:
            candidate = run.candidate
            self.news.put(Saved(candidate.name, candidate.step, candidate.done, read_folder(run.folder)))

        train_jobs(
            backbone, request_jobs(), batch, places=places, listener=self, on_end=send, on_checkpoint=send_checkpoint,
            interrupted=self.stopping.is_set,
        )  # fmt: skip
        return count

    def _portable(self, error: SoftPromptError) -> SoftPromptError:
        """Return `error` as one that can be pickled: of a class that is made from its message alone."""
        kind = next(kind for kind in type(error).__mro__ if "__init__" not in vars(kind))
        portable: SoftPromptError = kind(str(error).replace(str(self.folder), ""))
        return portable

    def on_step(self, candidate: Tuned) -> None:
        """Send a step."""
        self._send("step", candidate)

    def on_evaluation(self, candidate: Tuned) -> None:
        """Send an evaluation."""
        self._send("evaluation", candidate)

    def on_end(self, candidate: Tuned) -> None:
        """Send the end of a run."""
        self._send("end", candidate)

    def _send(self, event: Event, candidate: Tuned) -> None:
        new = candidate.history[self.sent[candidate.name] :]
        self.sent[candidate.name] = len(candidate.history)
        best = candidate.best and candidate.best.copy()
        self.news.put(
            TrainingNews(event, candidate.name, candidate.recipe, candidate.step, best, candidate.stopped, new)
        )


def share_jobs(jobs: int, workers: int, most: int) -> int:
    """Return how many of `jobs` each of `workers` has at a time, at most `most`, so that all are busy to the end."""
    rounds = -(-jobs // (workers * most))
    return -(-jobs // (workers * rounds))
