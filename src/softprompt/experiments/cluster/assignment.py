"""Dealing: which job waits, which worker has it, what has come back, and what becomes of it when a worker dies."""

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from softprompt.errors import RunFailed
from softprompt.experiments.cluster.worker import Ended, News, Saved, Seen, WorkItem
from softprompt.experiments.jobs import FINISHED, Job
from softprompt.recipes import Recipe
from softprompt.runtime.files import read_folder, write_folder
from softprompt.tasks import Task
from softprompt.training.loop import Listener

TRIES = 3
"""Workers that may die over a job, none of which has brought it further than the one before."""


@dataclass
class Elsewhere:
    """A candidate as the driver sees it: what its worker has told."""

    name: str
    recipe: Recipe
    task: Task
    step: int = 0
    best: dict[str, Any] | None = None
    stopped: str | None = None
    history: list[dict[str, Any]] = field(default_factory=list)


class Assignment:
    """A list of jobs on its way through the hands of workers, which are told apart by numbers."""

    def __init__(self, jobs: Sequence[Job], stop_at_step: int | None, listener: Listener | None) -> None:
        self.jobs, self.stop_at_step, self.listener = {job.name: job for job in jobs}, stop_at_step, listener
        self.waiting = deque(self.jobs)
        self.held: dict[int, set[str]] = {}
        self.seen = {job.name: Elsewhere(job.name, job.recipe, job.task) for job in jobs}
        self.failed: list[str] = []
        self.given_up: list[str] = []
        self._deaths: Counter[str] = Counter()
        self._reached: dict[str, int] = {}

    @property
    def left(self) -> int:
        """Jobs that wait or are under way."""
        return len(self.waiting) + sum(map(len, self.held.values()))

    def give(self, worker: int) -> WorkItem | None:
        """What `worker` is to do next; None when there is nothing that it should take now."""
        held = self.held.setdefault(worker, set())
        if any(map(self._is_suspect, held)):
            return None
        name = next((name for name in self.waiting if not (held and self._is_suspect(name))), None)
        if name is None:
            return None
        self.waiting.remove(name)
        held.add(name)
        self.seen[name].history.clear()  # the worker tells it from its beginning
        return WorkItem(name, read_folder(self.jobs[name].folder))

    def _is_suspect(self, name: str) -> bool:
        """Whether it is tuned alone, because the next worker to die over it shall be the last."""
        return self._deaths[name] >= TRIES - 1

    def hear(self, worker: int, news: News) -> None:
        """Write what has come back, and show it."""
        match news:
            case Seen():
                self._show(news)
            case Saved():
                write_folder(self.jobs[news.name].folder, news.files, FINISHED)
                if news.step > self._reached.get(news.name, -1):
                    self._reached[news.name], self._deaths[news.name] = news.step, 0
                if not news.done and self.stop_at_step is not None and news.step >= self.stop_at_step:
                    self.held[worker].discard(news.name)
            case Ended():
                write_folder(self.jobs[news.name].folder, news.files, FINISHED)
                self.failed += [news.failure] if news.failure else []
                self.held[worker].discard(news.name)

    def _show(self, news: Seen) -> None:
        one = self.seen[news.name]
        one.recipe, one.step, one.best, one.stopped = news.recipe, news.step, news.best, news.stopped
        one.history += news.history
        if self.listener:
            {"stepped": self.listener.stepped, "evaluated": self.listener.evaluated, "ended": self.listener.ended}[
                news.what
            ](one)

    def lose(self, worker: int) -> int:
        """Take back what a worker that died had; returns how many jobs that were."""
        names = self.held.pop(worker, set())
        for name in sorted(names, key=[*self.jobs].index, reverse=True):
            self._deaths[name] += 1
            if self._deaths[name] >= TRIES:
                self.given_up.append(name)
            else:
                self.waiting.appendleft(name)
        return len(names)

    def check(self) -> None:
        """Raise RunFailed where jobs were given up."""
        if self.given_up:
            raise RunFailed(
                f"{', '.join(self.given_up)}: {TRIES} workers died over it, and it got no further; the other runs are "
                "finished. Most often it needs more memory than there is (the last lines of Ray's logs say so): give "
                "fewer --tokens-per-pass. The same command tries again."
            )
