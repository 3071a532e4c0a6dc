"""Jobs: runs that are wanted, each with a folder of its own, tuned in shared batches and gone on with after a stop.

A job's folder is that of any run, with a plan.json beside run.json that holds what was asked for. A finished job is
only read; one that was begun goes on where it was; one that was asked for in other words is refused. `reproduce`,
`sweep` and `compare` say which jobs there are and what their results mean.
"""

import json
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import psutil
import torch
from pydantic import BaseModel, ConfigDict

from softprompt.backbones import Backbone
from softprompt.errors import BadArtefact, BadInput, Interrupted, RunFailed
from softprompt.methods.parameter_count import count_parameters
from softprompt.methods.registry import get_method
from softprompt.recipes import Recipe, Setting
from softprompt.runs.run_card import read_run_card
from softprompt.runs.start_from import Predecessor
from softprompt.runtime.files import make_folder, write_json
from softprompt.tasks import Task
from softprompt.training.candidate import make_candidate
from softprompt.training.checkpoint import FILE
from softprompt.training.finish import finish, measure_floors
from softprompt.training.loop import Listener
from softprompt.training.run import Run, begin, resume_run, tune_runs

PLAN = "plan.json"
FINISHED = "prompt.json"
"""Written last."""
COPIES = 8
"""A tuned value in memory, float32: itself, its gradient and that of one pass back, AdamW's two moments, the best
one, the one before the step, and one to spare for what a method keeps beside."""
MOST_TOGETHER = 32
"""With more, the frozen model is no busier, and the first results come later."""

Watch = Callable[[Sequence["Job"]], AbstractContextManager[Listener | None]]
"""Gives what shows how jobs go."""


class JobSpec(BaseModel):
    """plan.json: what a job was asked for, in the words it was asked in."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    task: dict[str, Any]
    setting: Setting
    recipe: Recipe

    def of_result(self) -> dict[str, Any]:
        """What the result depends on: not where the data and the backbone lie, nor how it is computed."""
        return {
            "recipe": self.recipe,
            "task": of_data(self.task),
            "backbone": Path(self.setting.backbone).name,
            "setting": self.setting.model_dump(include={"dtype", "max_source", "dropout", "placement"}),
        }


@dataclass(frozen=True)
class Job:
    """A run that is wanted."""

    name: str
    folder: Path
    asked: JobSpec
    task: Task
    predecessor: Predecessor | None = None
    """The run whose end is this one's start."""
    test: bool = True
    """Whether test is scored at the end; else `measure_test` does, if anyone asks."""
    sources: Sequence[Predecessor] | None = None
    """The runs whose prompts the method reads; None: it finds them where its options say."""
    stop: str | None = None
    """Why it is to end where it is, with the best state it has had; None: it is not."""

    @property
    def recipe(self) -> Recipe:
        return self.asked.recipe

    @property
    def finished(self) -> bool:
        return is_finished(self.folder)


def is_finished(folder: Path) -> bool:
    return (folder / FINISHED).is_file()


def of_data(origin: Mapping[str, Any]) -> Any:
    """What of a task's words says which examples it has, wherever its files lie."""
    kept = {name: value for name, value in origin.items() if name not in ("data_dir", "data", "dev", "test", "notes")}
    kept["sha256"] = sorted(_leaves(kept.get("sha256")))
    return json.loads(json.dumps(kept))


def _leaves(value: Any) -> list[str]:
    if isinstance(value, Mapping):
        return [leaf for part in value.values() for leaf in _leaves(part)]
    return [] if value is None else [str(value)]


def check_spec(folder: Path, asked: JobSpec, predecessor: Predecessor | None = None) -> None:
    """Raise BadInput where `folder` holds a run that was asked for in other words."""
    path = folder / PLAN
    if not path.is_file():
        return
    try:
        before = JobSpec.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadArtefact(
            f"{path} is no plan of ours: {error}. Remove its folder, and the run is done again."
        ) from None
    was, now = before.of_result(), asked.of_result()
    start = read_run_card(folder).start_from if (folder / "run.json").is_file() else None
    was["start_from"] = None if start is None else start.sha256
    now["start_from"] = None if predecessor is None else predecessor.record.sha256
    other = [name for name in now if was.get(name) != now[name]]
    if other:
        raise BadInput(
            f"{folder} holds a run with another {' and another '.join(other)} ({PLAN}). Give the words it was begun "
            "with, or another --output."
        )


def floors_of(path: Path, backbone: Backbone, task: Task) -> dict[str, dict[str, Any]]:
    """The floors kept in `path`, measured now where there are none."""
    if not path.is_file():
        floors = measure_floors(backbone, task)
        make_folder(path.parent)
        write_json(path, floors)
    found: dict[str, dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    return found


class RunJobs(Protocol):
    """`run_jobs`, or what does the same elsewhere (softprompt.experiments.cluster.driver)."""

    def __call__(
        self,
        backbone: Backbone,
        jobs: Sequence[Job],
        floors: Mapping[str, dict[str, Any]],
        watch: Watch,
        interrupted: Callable[[], bool] = ...,
        *,
        max_parallel: int | None = None,
        stop_at_step: int | None = None,
    ) -> list[str]: ...


def run_jobs(
    backbone: Backbone,
    jobs: Sequence[Job],
    floors: Mapping[str, dict[str, Any]],
    watch: Watch,
    interrupted: Callable[[], bool] = lambda: False,
    *,
    max_parallel: int | None = None,
    stop_at_step: int | None = None,
) -> list[str]:
    """Bring jobs of one setting to their end, or to step `stop_at_step`, in the same batches; returns what failed.

    `floors` are the floors, which go into each card. At most `max_parallel` are in memory at a time (None: as many as
    fit, `places`); each is finished, and its result on disk, as soon as it has taken its last step. Raises BadInput
    before the first step for a prompt that cannot be made here, Interrupted after saving.
    """
    left = [job for job in jobs if not job.finished]
    if not left:
        return []
    check_folders(left, backbone)
    failed: list[str] = []
    try:
        with watch(left) as listener:
            tune_jobs(
                backbone, left, floors, listener=listener, interrupted=interrupted, stop_at_step=stop_at_step,
                max_parallel=max_parallel or places(left, backbone),
                tokens_per_pass=left[0].asked.setting.tokens_per_pass,
                ended=lambda job, failure: failed.extend([failure] if failure else []),
            )  # fmt: skip
    except Interrupted:
        raise interrupted_jobs() from None
    return failed


def interrupted_jobs() -> Interrupted:
    return Interrupted("Interrupted; everything is saved. The same command goes on from here.")


def tune_jobs(
    backbone: Backbone,
    jobs: Iterable[Job],
    floors: Mapping[str, dict[str, Any]],
    *,
    listener: Listener | None,
    max_parallel: int,
    tokens_per_pass: int | None,
    ended: Callable[[Job, str | None], None],
    saved: Callable[[Run], None] | None = None,
    interrupted: Callable[[], bool] = lambda: False,
    stop_at_step: int | None = None,
) -> None:
    """Tune and finish jobs of one setting; the next is asked for when a place is free.

    `saved` is called after each checkpoint, `ended` with each job whose result is on disk and with what failed.
    """
    begun: dict[str, Job] = {}

    def runs() -> Iterator[Run]:
        for job in jobs:
            begun[job.name] = job
            run = _begun(job, backbone)
            run.candidate.stopped = run.candidate.stopped or job.stop
            yield run

    def finished(run: Run) -> None:
        job, failure = begun.pop(run.candidate.name), None
        try:
            finish(backbone, run, floors, test=job.test)
        except RunFailed as error:
            failure = str(error)
        ended(job, failure)

    tune_runs(
        backbone, runs(), listener=listener, saved=saved, ended=finished, interrupted=interrupted,
        stop_at_step=stop_at_step,
        tokens_per_pass=tokens_per_pass, max_parallel=max_parallel,
    )  # fmt: skip


def check_folders(jobs: Sequence[Job], backbone: Backbone) -> None:
    """Make a prompt of every kind there will be, and let it go: what cannot be made is known before the first step."""
    seen = set()
    for job in jobs:
        kind = (job.recipe.method, json.dumps(job.recipe.options, sort_keys=True, default=str), id(job.task))
        if kind not in seen:
            seen.add(kind)
            make_candidate(job.name, job.recipe, backbone, job.task, job.predecessor, job.sources)


def places(jobs: Sequence[Job], backbone: Backbone) -> int:
    """How many of `jobs` are tuned together: as fit in half of the free memory, at most MOST_TOGETHER.

    Only what is tuned counts (COPIES of the largest prompt): a step is cut into passes of bounded size, so its
    activations do not grow with the number of prompts.
    """
    sizes = {}
    for job in jobs:
        if get_method(job.recipe.method).kind == "network":  # all places are its own
            continue
        options = job.recipe.parsed_options()
        key = (job.recipe.method, options.model_dump_json())
        if key not in sizes:
            counted = count_parameters(
                get_method(job.recipe.method), options, d=backbone.d, positions=backbone.max_source
            )
            sizes[key] = 4 * COPIES * max(counted)
    fit = _free_bytes(backbone.device) // 2 // max(1, *sizes.values())
    if fit < 1:
        warnings.warn("Not even one prompt surely fits in half of the free memory; tuning one at a time.", stacklevel=2)
    return max(1, min(fit, MOST_TOGETHER))


def _free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


def _begun(job: Job, backbone: Backbone) -> Run:
    """The run of a job at its start, or where it was left. Raises BadInput for a folder of another run."""
    candidate = make_candidate(job.name, job.recipe, backbone, job.task, job.predecessor, job.sources)
    if not (job.folder / FILE).is_file():
        run = begin(candidate, job.folder, job.asked.setting)
        write_json(job.folder / PLAN, job.asked.model_dump(mode="json"))
        return run
    card = read_run_card(job.folder)
    if card.recipe != candidate.recipe or card.task != json.loads(json.dumps(job.task.origin)):
        raise BadInput(
            f"{job.folder} was begun with another recipe or other data (its run.json). Give the words it was "
            "begun with, or another --output."
        )
    return resume_run(card, job.folder, backbone, job.task)
