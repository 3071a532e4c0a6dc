"""Run jobs: in this process, or elsewhere through the same interface (softprompt.experiments.cluster.driver)."""

import json
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import psutil
import torch

from softprompt.backbones import Backbone
from softprompt.errors import BadInput, Interrupted, RunFailed
from softprompt.experiments.jobs import PLAN, Floors, Job
from softprompt.methods.parameter_count import count_parameters
from softprompt.methods.registry import get_method
from softprompt.recipes import Setting
from softprompt.runs.run_card import read_run_card
from softprompt.runtime.files import write_json
from softprompt.training.candidate import make_candidate
from softprompt.training.checkpoint import FILE
from softprompt.training.finish import finish
from softprompt.training.loop import Listener
from softprompt.training.run import Run, begin, resume_run, tune_runs

COPIES = 8
"""Float32 copies of each trained value in memory: itself, its gradient, the gradient of one pass, AdamW's two moments,
the best value, the value before the step, and one to spare for what a method keeps beside."""
MOST_TOGETHER = 32
"""With more, the frozen model is not busier, and the first results come later."""


def watch_nothing(jobs: Sequence[Job]) -> AbstractContextManager[Listener | None]:
    """Show nothing."""
    return nullcontext()


@dataclass(frozen=True)
class Monitor:
    """How runs are followed and stopped: lines of text, a view of the jobs under way, Ctrl-C."""

    say: Callable[[str], None] = lambda text: None
    """Prints a line."""
    watch: Callable[[Sequence[Job]], AbstractContextManager[Listener | None]] = watch_nothing
    """Opens a view of jobs; its value listens to their training."""
    interrupted: Callable[[], bool] = lambda: False
    """Tells, before each step, whether to save and stop."""


@dataclass(frozen=True)
class JobBatch:
    """Jobs of one setting that are run in one call."""

    jobs: Sequence[Job]
    floors: Floors
    max_parallel: int | None = None
    """Maximum jobs in memory at a time; None: as many as fit (`count_places`)."""
    stop_at_step: int | None = None
    """Step that no job goes beyond; None: each goes to its end."""

    @property
    def setting(self) -> Setting:
        return self.jobs[0].spec.setting

    def places(self, backbone: Backbone) -> int:
        """Return how many of the jobs are in memory at a time."""
        return self.max_parallel or count_places(self.jobs, backbone)


class JobRunner(ABC):
    """Runs batches of jobs; a subclass says where."""

    def run(self, backbone: Backbone, batch: JobBatch, monitor: Monitor) -> list[str]:
        """Bring the unfinished jobs of `batch` to their end, or to its `stop_at_step`; return what failed.

        Each job's result is on disk as soon as it has taken its last step.

        Raises:
          BadInput: A prompt cannot be made here; raised before the first step.
          Interrupted: `monitor.interrupted` said so; everything is saved.
          RunFailed: Jobs were given up.
        """
        left = [job for job in batch.jobs if not job.finished]
        if not left:
            return []
        check_prompts(left, backbone)
        with monitor.watch(left) as listener:
            return self._run(backbone, replace(batch, jobs=left), listener, monitor.interrupted)

    @abstractmethod
    def _run(
        self, backbone: Backbone, batch: JobBatch, listener: Listener | None, interrupted: Callable[[], bool]
    ) -> list[str]:
        """Run jobs of which none is finished and each prompt can be made; return what failed."""


class LocalRunner(JobRunner):
    """Runs jobs in this process, in the same batches."""

    def _run(
        self, backbone: Backbone, batch: JobBatch, listener: Listener | None, interrupted: Callable[[], bool]
    ) -> list[str]:
        failed: list[str] = []
        try:
            train_jobs(
                backbone, batch.jobs, batch, places=batch.places(backbone), listener=listener, interrupted=interrupted,
                on_end=lambda job, failure: failed.extend([failure] if failure else []),
            )  # fmt: skip
        except Interrupted:
            raise interruption() from None
        return failed


def interruption() -> Interrupted:
    """Return the error that ends a call whose jobs are saved and not finished."""
    return Interrupted("Interrupted; everything is saved. The same command goes on from here.")


def train_jobs(
    backbone: Backbone,
    jobs: Iterable[Job],
    batch: JobBatch,
    *,
    places: int,
    listener: Listener | None,
    on_end: Callable[[Job, str | None], None],
    on_checkpoint: Callable[[Run], None] | None = None,
    interrupted: Callable[[], bool] = lambda: False,
) -> None:
    """Train and finish jobs of one setting in shared batches.

    Args:
      backbone: The frozen model.
      jobs: Read lazily: the next is requested when a place is free.
      batch: What the jobs share.
      places: Jobs in memory at a time.
      listener: Follows the training.
      on_end: Called with each job whose result is on disk, and with its failure, if any.
      on_checkpoint: Called after each checkpoint.
      interrupted: Tells, before each step, whether to save and stop.
    """
    open_jobs: dict[str, Job] = {}

    def runs() -> Iterator[Run]:
        for job in jobs:
            open_jobs[job.name] = job
            run = open_run(job, backbone)
            run.candidate.stopped = run.candidate.stopped or job.stop
            yield run

    def finish_run(run: Run) -> None:
        job, failure = open_jobs.pop(run.candidate.name), None
        try:
            finish(backbone, run, batch.floors, test=job.test)
        except Interrupted:
            raise
        except RunFailed as error:
            failure = str(error)
        on_end(job, failure)

    tune_runs(
        backbone, runs(), listener=listener, on_checkpoint=on_checkpoint, on_done=finish_run, interrupted=interrupted,
        stop_at_step=batch.stop_at_step, tokens_per_pass=batch.setting.tokens_per_pass, max_parallel=places,
    )  # fmt: skip


def open_run(job: Job, backbone: Backbone) -> Run:
    """Begin the run of `job`, or resume it from its checkpoint. Raises BadInput for a folder of another run."""
    candidate = make_candidate(job.name, job.recipe, backbone, job.task, job.predecessor, job.sources)
    if not (job.folder / FILE).is_file():
        run = begin(candidate, job.folder, job.spec.setting)
        write_json(job.folder / PLAN, job.spec.model_dump(mode="json"))
        return run
    card = read_run_card(job.folder)
    if card.recipe != candidate.recipe or card.task != json.loads(json.dumps(job.task.origin)):
        raise BadInput(
            f"{job.folder} was begun with another recipe or other data (its run.json). Give the arguments it was "
            "begun with, or another --output."
        )
    return resume_run(card, job.folder, backbone, job.task)


def check_prompts(jobs: Sequence[Job], backbone: Backbone) -> None:
    """Make a prompt of every kind that `jobs` need and drop it, so that errors come before the first step."""
    seen = set()
    for job in jobs:
        kind = (job.recipe.method, json.dumps(job.recipe.options, sort_keys=True, default=str), id(job.task))
        if kind not in seen:
            seen.add(kind)
            make_candidate(job.name, job.recipe, backbone, job.task, job.predecessor, job.sources)


def count_places(jobs: Sequence[Job], backbone: Backbone) -> int:
    """Count the jobs that fit in half of the free memory, at most MOST_TOGETHER.

    Only trained values count (COPIES of the largest prompt): a step is cut into passes of bounded size, so its
    activations do not grow with the number of prompts.
    """
    sizes: dict[tuple[str, str], int] = {}
    for job in jobs:
        if get_method(job.recipe.method).kind == "network":  # trained alone
            continue
        options = job.recipe.parsed_options()
        key = (job.recipe.method, options.model_dump_json())
        if key not in sizes:
            counts = count_parameters(
                get_method(job.recipe.method), options, d=backbone.d, positions=backbone.max_source
            )
            sizes[key] = 4 * COPIES * max(counts)
    fit = _free_bytes(backbone.device) // 2 // max([1, *sizes.values()])
    if fit < 1:
        warnings.warn("Not even one prompt surely fits in half of the free memory; training one at a time.",
                      stacklevel=2)  # fmt: skip
    return max(1, min(fit, MOST_TOGETHER))


def _free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)
