"""A worker: one process of a Ray cluster with a copy of the backbone on its device. It knows nothing of Ray.

It loads the backbone first. The driver calls `begin` once for each list of jobs and `turn` after `turn`: a turn brings
the answer to what the worker asked, if anything, and returns what has happened since. A worker asks for a job whenever
it has a place free. Its runs lie in a folder of its own, wherever it runs; what is written there goes to the driver as
bytes, so the machines need no file system in common.
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
from typing import Any, Literal

from softprompt.backbones import Backbone
from softprompt.errors import Interrupted, SoftPromptError
from softprompt.experiments.jobs import FINISHED, Job, places, tune_jobs
from softprompt.recipes import Recipe, Setting
from softprompt.runtime.files import Files, read_folder, write_folder
from softprompt.training.loop import Tuned
from softprompt.training.run import Run, open_backbone

PATIENCE = 0.5
"""Seconds that a turn waits for news; so long, at most, a worker does not hear of Ctrl-C."""


@dataclass(frozen=True)
class WorkItem:
    """A job for a worker: its name, and what the driver has of its folder."""

    name: str
    files: Files


@dataclass(frozen=True)
class Ready:
    """The backbone is loaded."""

    machine: str
    process: int
    device: str


@dataclass(frozen=True)
class Asking:
    """A place is free."""


@dataclass(frozen=True)
class Seen:
    """For the driver's listener; `history` is what has been added since the last."""

    what: Literal["stepped", "evaluated", "ended"]
    name: str
    recipe: Recipe
    step: int
    best: dict[str, Any] | None
    stopped: str | None
    history: list[dict[str, Any]]


@dataclass(frozen=True)
class Saved:
    """A checkpoint. `done`: it has taken its last step, and `Ended` will follow."""

    name: str
    step: int
    done: bool
    files: Files


@dataclass(frozen=True)
class Ended:
    """A finished run, and what failed in it."""

    name: str
    failure: str | None
    files: Files


@dataclass(frozen=True)
class Note:
    """A warning."""

    text: str


@dataclass(frozen=True)
class Through:
    """Nothing is left of what was begun; `error` is what ended it, when something did."""

    error: SoftPromptError | None = None


News = Ready | Asking | Seen | Saved | Ended | Note | Through


class Worker:
    """What the driver calls from elsewhere, one call at a time; the work is done in a thread beside."""

    def __init__(self, setting: Setting, place: str) -> None:
        """`place` is where the backbone is found, when it is not where `setting` says."""
        self.setting, self.place = setting, place
        self.backbone: Backbone | None = None
        """Loaded before anything is begun."""
        self.folder = Path(tempfile.mkdtemp(prefix="softprompt-"))
        self.news: queue.Queue[News] = queue.Queue()
        self.answers: queue.Queue[WorkItem | None] = queue.Queue()
        self.stopping = threading.Event()
        self.bug: BaseException | None = None
        self.sent: dict[str, int] = {}
        """Lines of each run's history that the driver has."""
        warnings.showwarning = lambda message, *_, **__: self.news.put(Note(str(message)))
        threading.Thread(target=self._guarded, args=(self._load,), daemon=True).start()

    def begin(
        self,
        jobs: Sequence[Job],
        floors: Mapping[str, dict[str, Any]],
        workers: int,
        max_parallel: int | None,
        stop_at_step: int | None,
    ) -> None:
        """Start on `jobs`, of which `workers` workers each get a share, up to step `stop_at_step`; after `Ready`."""
        backbone = self.backbone
        assert backbone is not None

        def work() -> None:
            # Its own folder for a job: without the beginning of its path, the driver's.
            known = {job.name: replace(job, folder=Path(f"{self.folder}{job.folder}")) for job in jobs}
            most = share_jobs(len(jobs), workers, max_parallel or places(jobs, backbone))
            while self._tuned(backbone, known, floors, most, stop_at_step):
                pass
            self.news.put(Through())

        self.stopping.clear()
        threading.Thread(target=self._guarded, args=(work,), daemon=True).start()

    def turn(self, answers: Sequence[WorkItem | None], stop: bool) -> list[News]:
        """Take the answer to an `Asking`, if there is one, and return what is new, after `PATIENCE` at the latest."""
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

    def _guarded(self, work: Callable[[], None]) -> None:
        """Do `work`; what ends it goes to the driver."""
        try:
            work()
        except Interrupted:
            self.news.put(Through())
        except SoftPromptError as error:
            self.news.put(Through(self._plain(error)))
        except BaseException as error:  # noqa: BLE001  # a bug; the next turn raises it
            self.bug = error

    def _load(self) -> None:
        backbone = open_backbone(self.setting.model_copy(update={"backbone": self.place}))
        backbone.name = self.setting.backbone  # as cards name it
        self.backbone = backbone
        self.news.put(Ready(socket.gethostname(), os.getpid(), str(backbone.device)))

    def _tuned(
        self,
        backbone: Backbone,
        jobs: Mapping[str, Job],
        floors: Mapping[str, dict[str, Any]],
        max_parallel: int,
        stop_at_step: int | None,
    ) -> int:
        """Tune what is given until nothing more is; returns how many jobs that were."""
        given = 0

        def asked() -> Iterator[Job]:
            nonlocal given
            while True:
                self.news.put(Asking())
                order = self.answers.get()
                if order is None:
                    return
                given += 1
                job = jobs[order.name]
                self.sent[job.name] = 0
                write_folder(job.folder, order.files, FINISHED)
                yield job

        def send(job: Job, failure: str | None) -> None:
            said = None if failure is None else failure.replace(str(self.folder), "")
            self.news.put(Ended(job.name, said, read_folder(job.folder)))
            shutil.rmtree(job.folder)

        def send_saved(run: Run) -> None:
            candidate = run.candidate
            self.news.put(Saved(candidate.name, candidate.step, candidate.done, read_folder(run.folder)))

        tune_jobs(
            backbone, asked(), floors, listener=self, max_parallel=max_parallel, ended=send, saved=send_saved,
            stop_at_step=stop_at_step,
            tokens_per_pass=self.setting.tokens_per_pass, interrupted=self.stopping.is_set,
        )  # fmt: skip
        return given

    def _plain(self, error: SoftPromptError) -> SoftPromptError:
        """The same as an error that travels: of a class that is made from its message alone."""
        kind = next(kind for kind in type(error).__mro__ if "__init__" not in vars(kind))
        found: SoftPromptError = kind(str(error).replace(str(self.folder), ""))
        return found

    # A listener.

    def stepped(self, candidate: Tuned) -> None:
        self._see("stepped", candidate)

    def evaluated(self, candidate: Tuned) -> None:
        self._see("evaluated", candidate)

    def ended(self, candidate: Tuned) -> None:
        self._see("ended", candidate)

    def _see(self, what: Literal["stepped", "evaluated", "ended"], candidate: Tuned) -> None:
        new = candidate.history[self.sent[candidate.name] :]
        self.sent[candidate.name] = len(candidate.history)
        best = candidate.best and dict(candidate.best)
        self.news.put(
            Seen(what, candidate.name, candidate.recipe, candidate.step, best, candidate.stopped, new)
        )  # fmt: skip


def share_jobs(jobs: int, workers: int, most: int) -> int:
    """How many of `jobs` each of `workers` has at a time, at most `most`, so that all are busy to the end."""
    rounds = -(-jobs // (workers * most))
    return -(-jobs // (workers * rounds))
