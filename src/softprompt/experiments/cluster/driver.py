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
from softprompt.experiments.cluster.worker import PATIENCE, Idle, JobRequest, Note, Ready, Worker, WorkItem
from softprompt.experiments.jobs import Job
from softprompt.experiments.runner import JobBatch, JobRunner, LocalRunner, interruption
from softprompt.recipes import Setting
from softprompt.runs.start_from import read_sources
from softprompt.runtime import plugins
from softprompt.runtime.ray_cluster import joined, room
from softprompt.training.loop import Listener

LONG = 60.0
"""Seconds without a worker after which a line says that the cluster gives none."""


@dataclass
class WorkerHandle:
    """A worker as the driver holds it."""

    number: int
    actor: Any  # Ray makes its methods at run time
    turn: object
    """Ray's reference to the turn under way."""
    begun: object = None
    """Ray's reference to the last call of `begin`."""
    ready: bool = False
    """Whether its backbone is loaded."""
    busy: bool = False
    requesting: bool = False


class ClusterRunner(JobRunner):
    """Runs jobs on workers, which it keeps for further batches of the same setting."""

    def __init__(self, ray: Any, count: int | None, say: Callable[[str], None]) -> None:
        """Start no worker yet.

        Args:
          ray: The module (without types of its own), joined to a cluster.
          count: Workers that are wanted; None: one for each GPU, or machine.
          say: Prints a line.
        """
        self.ray, self.count, self.say = ray, count, say
        self.setting = Setting()
        self.begin: tuple[object, int] = (None, 0)
        """Arguments of the workers' `begin` for the present batch."""
        self.workers: list[WorkerHandle] = []
        self.started = 0
        self.stillborn = 0
        """Workers in a row that died before they were ready."""
        self.noted: set[str] = set()

    def _run(
        self, backbone: Backbone, batch: JobBatch, listener: Listener | None, interrupted: Callable[[], bool]
    ) -> list[str]:
        if self.setting != batch.setting:
            self.close()
            self.setting = batch.setting
        machines = [node["Resources"] for node in self.ray.nodes() if node["Alive"]]
        most, resources = room(machines, self.count, self.setting.device)
        count = min(most, len(batch.jobs))
        # Put once for all workers: the data is in it.
        self.begin = (self.ray.put(replace(batch, jobs=[_portable(job) for job in batch.jobs])), count)
        assignment = Assignment(batch, listener)
        for worker in self.workers:
            if worker.ready:
                self._begin(worker)
        error = self._assign(assignment, count, resources, interrupted)
        if error is not None:
            raise error
        if assignment.left:
            raise interruption()
        assignment.check()
        return assignment.failed

    def close(self) -> None:
        """End all workers."""
        leaving = [worker.actor.leave.remote() for worker in self.workers if worker.ready]
        if leaving:
            self.ray.wait(leaving, num_returns=len(leaving), timeout=4 * PATIENCE)
        while self.workers:
            self._drop(self.workers[0])

    def _assign(
        self, assignment: Assignment, count: int, resources: Mapping[str, float], interrupted: Callable[[], bool]
    ) -> SoftPromptError | None:
        """Deal out all jobs, or until `interrupted` says so or a worker has an error, which is returned."""
        began, waited = time.monotonic(), False
        stop, error = False, None
        while True:
            over = stop or not assignment.left
            while not over and len(self.workers) < min(count, assignment.left):
                self._start(resources)
            if over and not any(worker.busy for worker in self.workers):
                return error
            under_way = [worker for worker in self.workers if worker.busy or not worker.ready]
            heard, _ = self.ray.wait([worker.turn for worker in under_way], timeout=PATIENCE)
            stop = stop or interrupted()
            for worker in [worker for worker in under_way if worker.turn in heard]:
                error = self._receive(worker, assignment) or error
                stop = stop or error is not None
                self._answer(worker, assignment, stop)
            if not waited and time.monotonic() - began > LONG and not any(worker.ready for worker in self.workers):
                waited = True
                self.say("No worker has started yet: the cluster has nothing free, or is slow. Waiting.")

    def _start(self, resources: Mapping[str, float]) -> None:
        backbone = Path(self.setting.backbone)
        place = str(backbone.resolve()) if backbone.is_dir() else self.setting.backbone
        self.started += 1
        actor = self.ray.remote(Worker).options(**resources).remote(self.setting, place, tuple(plugins.imported))
        self.workers.append(WorkerHandle(self.started, actor, actor.turn.remote([], False)))

    def _begin(self, worker: WorkerHandle) -> None:
        worker.busy, worker.requesting = True, False
        worker.begun = worker.actor.begin.remote(*self.begin)
        worker.turn = worker.actor.turn.remote([], False)

    def _receive(self, worker: WorkerHandle, assignment: Assignment) -> SoftPromptError | None:
        """Take in the news of a turn; return the error that has ended the worker's work, if one has."""
        error = None
        try:
            if worker.begun is not None:
                self.ray.get(worker.begun)
            found = self.ray.get(worker.turn)
        except self.ray.exceptions.RayTaskError:
            raise  # a bug in softprompt, with the worker's traceback
        except self.ray.exceptions.RayError as reason:
            self._lose(worker, assignment, str(reason))
            return None
        for news in found:
            match news:
                case Ready():
                    self.say(f"worker {worker.number}: process {news.process} on {news.machine}, {news.device}")
                    worker.ready, self.stillborn = True, 0
                case JobRequest():
                    worker.requesting = True
                case Note():
                    if news.text not in self.noted:
                        self.noted.add(news.text)
                        warnings.warn(news.text, stacklevel=2)
                case Idle():
                    worker.busy, error = False, news.error
                    if not worker.ready:
                        self._drop(worker)
                case _:
                    assignment.receive(worker.number, news)
        return error

    def _answer(self, worker: WorkerHandle, assignment: Assignment, stop: bool) -> None:
        """Start the next turn. A worker without a job is left waiting: another worker's job may come back."""
        if worker not in self.workers:
            return
        if worker.ready and not worker.busy:
            if assignment.left and not stop:
                self._begin(worker)
            return
        answers: Sequence[WorkItem | None] = []
        if worker.requesting:
            over = stop or not assignment.left
            item = None if over else assignment.give(worker.number)
            if item or over or assignment.held[worker.number]:
                answers, worker.requesting = [item], False
        worker.turn = worker.actor.turn.remote(answers, stop)

    def _lose(self, worker: WorkerHandle, assignment: Assignment, reason: str) -> None:
        self._drop(worker)
        count = assignment.lose(worker.number)
        its = "its unfinished run goes" if count == 1 else f"its {count} unfinished runs go"
        self.say(f"worker {worker.number} died" + (f"; {its} to others" if count else ""))
        self.stillborn += not worker.ready
        if self.stillborn >= TRIES:
            raise RunFailed(
                f"{TRIES} workers died before they could start: {reason.strip().splitlines()[-1]} Expected softprompt, "
                "with all it needs and in the same version, on every machine of the cluster, and memory for the "
                "backbone. What was finished is kept; the same command goes on from here."
            )

    def _drop(self, worker: WorkerHandle) -> None:
        self.workers.remove(worker)
        self.ray.kill(worker.actor)


def _portable(job: Job) -> Job:
    """Return `job` for a machine that may see none of this one's files."""
    sources = read_sources(job.recipe.parsed_options())
    return replace(job, folder=job.folder.resolve(), sources=sources)


@contextmanager
def open_runner(ray: str | None, workers: int | None, say: Callable[[str], None]) -> Iterator[JobRunner]:
    """Yield what runs jobs: this process, or `workers` of the cluster at the address `ray`."""
    if ray is None:
        if workers is not None:
            raise BadInput(f"--workers {workers}: expected --ray beside it; without, this process does all the work.")
        yield LocalRunner()
        return
    with joined(ray) as module, closing(ClusterRunner(module, workers, say)) as cluster:
        yield cluster
