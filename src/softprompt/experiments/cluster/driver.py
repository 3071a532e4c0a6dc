"""The driver: runs jobs on the workers of a Ray cluster, replaces workers that die, and writes what they send back."""

import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from softprompt.backbones import Backbone
from softprompt.errors import BadInput, RunFailed, SoftPromptError
from softprompt.experiments.cluster.assignment import TRIES, Assignment
from softprompt.experiments.cluster.worker import PATIENCE, Asking, Note, Ready, Through, Worker, WorkItem
from softprompt.experiments.jobs import Job, RunJobs, Watch, check_folders, interrupted_jobs, run_jobs
from softprompt.recipes import Setting
from softprompt.runs.start_from import read_sources
from softprompt.runtime.ray_cluster import joined, room

LONG = 60.0
"""Seconds without a worker after which it is said that the cluster gives none."""


@dataclass
class WorkerHandle:
    """A worker as the driver holds it."""

    number: int
    actor: Any
    turn: Any
    """What Ray gives for the turn under way."""
    began: Any = None
    """And for the last call of `begin`."""
    ready: bool = False
    """Whether its backbone is loaded."""
    busy: bool = False
    asking: bool = False


class Cluster:
    """Called as `run_jobs` is, it does the same on workers, which it keeps for further calls of the same setting."""

    def __init__(self, ray: Any, workers: int | None, say: Callable[[str], None]) -> None:
        """`ray` is the module, joined to a cluster; `workers` how many are asked for
        (softprompt.runtime.ray_cluster)."""
        self.ray, self.workers, self.say = ray, workers, say
        self.setting = Setting()
        self.begin: tuple[Any, ...] = ()
        """What workers are told of the present call."""
        self.hands: list[WorkerHandle] = []
        self.started = 0
        self.stillborn = 0
        """Workers in a row that died before they were ready."""
        self.noted: set[str] = set()

    def __call__(
        self,
        backbone: Backbone,
        jobs: Sequence[Job],
        floors: Mapping[str, dict[str, Any]],
        watch: Watch,
        interrupted: Callable[[], bool] = lambda: False,
        *,
        max_parallel: int | None = None,
        stop_at_step: int | None = None,
    ) -> list[str]:
        left = [job for job in jobs if not job.finished]
        if not left:
            return []
        check_folders(left, backbone)
        if self.setting != left[0].asked.setting:
            self.close()
            self.setting = left[0].asked.setting
        machines = [node["Resources"] for node in self.ray.nodes() if node["Alive"]]
        count, resources = room(machines, self.workers, self.setting.device)
        sent = self.ray.put([_sent(job) for job in left])  # once for all workers: the data is in it
        self.begin = (sent, floors, min(count, len(left)), max_parallel, stop_at_step)
        with watch(left) as listener:
            deal = Assignment(left, stop_at_step, listener)
            for hand in self.hands:
                if hand.ready:
                    self._begin(hand)
            error = self._run(deal, min(count, len(left)), resources, interrupted)
        if error is not None:
            raise error
        if deal.left:
            raise interrupted_jobs()
        deal.check()
        return deal.failed

    def close(self) -> None:
        """End all workers."""
        leaving = [hand.actor.leave.remote() for hand in self.hands if hand.ready]
        if leaving:
            self.ray.wait(leaving, num_returns=len(leaving), timeout=4 * PATIENCE)
        while self.hands:
            self._drop(self.hands[0])

    def _run(
        self, deal: Assignment, count: int, resources: Mapping[str, float], interrupted: Callable[[], bool]
    ) -> SoftPromptError | None:
        """Deal out all there is to do, or until a worker has an error, which is returned, or `interrupted` says so."""
        began, waited = time.monotonic(), False
        stop, error = False, None
        while True:
            over = stop or not deal.left
            while not over and len(self.hands) < min(count, deal.left):
                self._start(resources)
            if over and not any(hand.busy for hand in self.hands):
                return error
            under_way = [hand for hand in self.hands if hand.busy or not hand.ready]
            heard, _ = self.ray.wait([hand.turn for hand in under_way], timeout=PATIENCE)
            stop = stop or interrupted()
            for hand in [hand for hand in under_way if hand.turn in heard]:
                error = self._heard(hand, deal) or error
                stop = stop or error is not None
                self._go_on(hand, deal, stop)
            if not waited and time.monotonic() - began > LONG and not any(hand.ready for hand in self.hands):
                waited = True
                self.say("No worker has started yet: the cluster has nothing free, or is slow. Waiting.")

    def _start(self, resources: Mapping[str, float]) -> None:
        backbone = Path(self.setting.backbone)
        place = str(backbone.resolve()) if backbone.is_dir() else self.setting.backbone
        self.started += 1
        actor = self.ray.remote(Worker).options(**resources).remote(self.setting, place)
        self.hands.append(WorkerHandle(self.started, actor, actor.turn.remote([], False)))

    def _begin(self, hand: WorkerHandle) -> None:
        hand.busy, hand.asking = True, False
        hand.began = hand.actor.begin.remote(*self.begin)
        hand.turn = hand.actor.turn.remote([], False)

    def _heard(self, hand: WorkerHandle, deal: Assignment) -> SoftPromptError | None:
        """Take in what a turn has brought; returns the error that has ended the worker's work, when one has."""
        error = None
        try:
            if hand.began is not None:
                self.ray.get(hand.began)
            found = self.ray.get(hand.turn)
        except self.ray.exceptions.RayTaskError:
            raise  # a bug of ours, with the worker's traceback
        except self.ray.exceptions.RayError as reason:
            self._lost(hand, deal, str(reason))
            return None
        for news in found:
            match news:
                case Ready():
                    self.say(f"worker {hand.number}: process {news.process} on {news.machine}, {news.device}")
                    hand.ready, self.stillborn = True, 0
                case Asking():
                    hand.asking = True
                case Note():
                    if news.text not in self.noted:
                        self.noted.add(news.text)
                        warnings.warn(news.text, stacklevel=2)
                case Through():
                    hand.busy, error = False, news.error
                    if not hand.ready:
                        self._drop(hand)
                case _:
                    deal.hear(hand.number, news)
        return error

    def _go_on(self, hand: WorkerHandle, deal: Assignment, stop: bool) -> None:
        """The next turn. A worker with nothing to do is left waiting: what another has may come back."""
        if hand not in self.hands:
            return
        if hand.ready and not hand.busy:
            if deal.left and not stop:
                self._begin(hand)
            return
        answers: list[WorkItem | None] = []
        if hand.asking:
            over = stop or not deal.left
            order = None if over else deal.give(hand.number)
            if order or over or deal.held[hand.number]:
                answers, hand.asking = [order], False
        hand.turn = hand.actor.turn.remote(answers, stop)

    def _lost(self, hand: WorkerHandle, deal: Assignment, reason: str) -> None:
        self._drop(hand)
        count = deal.lose(hand.number)
        its = "its unfinished run goes" if count == 1 else f"its {count} unfinished runs go"
        self.say(f"worker {hand.number} died" + (f"; {its} to others" if count else ""))
        self.stillborn += not hand.ready
        if self.stillborn >= TRIES:
            raise RunFailed(
                f"{TRIES} workers died before they could start: {reason.strip().splitlines()[-1]} Expected softprompt, "
                "with all it needs and in the same version, on every machine of the cluster, and memory for the "
                "backbone. What was finished is kept; the same command goes on from here."
            )

    def _drop(self, hand: WorkerHandle) -> None:
        self.hands.remove(hand)
        self.ray.kill(hand.actor)


def _sent(job: Job) -> Job:
    """A job for a machine that may see none of this one's files."""
    sources = read_sources(job.recipe.parsed_options())
    return replace(job, folder=job.folder.resolve(), sources=sources)


@contextmanager
def runner(ray: str | None, workers: int | None, say: Callable[[str], None]) -> Iterator[RunJobs]:
    """What runs jobs: this process, or `workers` of the cluster at the address `ray`
    (softprompt.runtime.ray_cluster)."""
    if ray is None:
        if workers is not None:
            raise BadInput(f"--workers {workers}: expected --ray beside it; without, this process does all the work.")
        yield run_jobs
        return
    with joined(ray) as module, closing(Cluster(module, workers, say)) as cluster:
        yield cluster
