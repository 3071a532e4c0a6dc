"""Job assignment: queue, leases per worker, results, retries after a crash."""

from collections import Counter, deque
from dataclasses import dataclass, field

from softprompt.errors import RunFailed
from softprompt.experiments.cluster.worker import Ended, News, Saved, TrainingNews, WorkItem
from softprompt.experiments.runner import JobBatch
from softprompt.recipes import Recipe
from softprompt.runs.run_folder import FINISHED
from softprompt.runtime.files import read_folder, write_folder
from softprompt.tasks import Task
from softprompt.training.candidate import Best, HistoryEntry
from softprompt.training.loop import Listener

TRIES = 3
"""Workers that may die over a job without bringing it further."""


@dataclass
class RemoteCandidate:
    """A candidate as the driver sees it: what its worker has sent."""

    name: str
    recipe: Recipe
    task: Task
    step: int = 0
    best: Best | None = None
    stopped: str | None = None
    history: list[HistoryEntry] = field(default_factory=list)


class Assignment:
    """The jobs of a batch, dealt out to workers, which are known by numbers."""

    def __init__(self, batch: JobBatch, listener: Listener | None) -> None:
        self.jobs, self.stop_at_step, self.listener = (
            {job.name: job for job in batch.jobs},
            batch.stop_at_step,
            listener,
        )
        self.waiting = deque(self.jobs)
        self.held: dict[int, set[str]] = {}
        self.seen = {job.name: RemoteCandidate(job.name, job.recipe, job.task) for job in batch.jobs}
        self.failed: list[str] = []
        self.given_up: list[str] = []
        self._deaths: Counter[str] = Counter()
        self._reached: dict[str, int] = {}

    @property
    def left(self) -> int:
        """Jobs that wait or are under way."""
        return len(self.waiting) + sum(map(len, self.held.values()))

    def give(self, worker: int) -> WorkItem | None:
        """Take the next job off the queue for `worker`; None where it should take no job now."""
        held = self.held.setdefault(worker, set())
        if any(map(self._is_suspect, held)):
            return None
        name = next((name for name in self.waiting if not (held and self._is_suspect(name))), None)
        if name is None:
            return None
        self.waiting.remove(name)
        held.add(name)
        self.seen[name].history.clear()  # the worker sends it from its beginning
        return WorkItem(name, read_folder(self.jobs[name].folder))

    def _is_suspect(self, name: str) -> bool:
        """Tell whether a job is trained alone, because it is given up if one more worker dies over it."""
        return self._deaths[name] >= TRIES - 1

    def receive(self, worker: int, news: News) -> None:
        """Write the files that a worker sent, and show its progress."""
        match news:
            case TrainingNews():
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

    def _show(self, news: TrainingNews) -> None:
        one = self.seen[news.name]
        one.recipe, one.step, one.best, one.stopped = news.recipe, news.step, news.best, news.stopped
        one.history += news.history
        if self.listener is None:
            return
        match news.event:
            case "step":
                self.listener.on_step(one)
            case "evaluation":
                self.listener.on_evaluation(one)
            case "end":
                self.listener.on_end(one)

    def lose(self, worker: int) -> int:
        """Take back the jobs of a worker that died; return their number."""
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
