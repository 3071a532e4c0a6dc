"""Jobs: planned runs, trained in shared batches and resumable.

A job's folder is that of any run, with a plan.json beside run.json that holds the job's spec. A finished job is only
read, an unfinished one goes on where it was, and a folder whose plan.json holds another spec is refused. `reproduce`,
`sweep` and `compare` say which jobs there are and what their results mean.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pydantic import BaseModel, ConfigDict

from softprompt.errors import BadArtefact, BadInput
from softprompt.evaluation.evaluate import ScoresJson
from softprompt.recipes import Recipe, Setting
from softprompt.runs.prompt import PromptCard
from softprompt.runs.run_card import read_run_card
from softprompt.runs.run_folder import FINISHED, is_finished
from softprompt.runs.start_from import Predecessor
from softprompt.tasks import Task
from softprompt.tasks.registry import task_again

PLAN = "plan.json"

Floors = dict[str, ScoresJson]
"""Test scores of the majority answer and of the backbone without a prompt, as JSON; they go into each card."""


class JobSpec(BaseModel):
    """plan.json: the task, settings and recipe of a job."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    task: dict[str, object]
    setting: Setting
    recipe: Recipe

    def relevant(self) -> dict[str, object]:
        """Return what the result depends on: not where data and backbone lie, nor how it is computed."""
        return {
            "recipe": self.recipe,
            "task": relevant_origin(self.task),
            "backbone": Path(self.setting.backbone).name,
            "setting": self.setting.model_dump(include={"dtype", "max_source", "dropout", "placement"}),
        }


class PlannedRun(Protocol):
    """A run that an experiment wants: its folder, its spec and the run it starts from."""

    @property
    def folder(self) -> Path: ...
    @property
    def spec(self) -> JobSpec: ...
    @property
    def predecessor(self) -> Predecessor | None: ...


@dataclass(frozen=True)
class Job:
    """A planned run and its task."""

    name: str
    folder: Path
    spec: JobSpec
    task: Task
    predecessor: Predecessor | None = None
    """The run whose end is this one's start."""
    test: bool = True
    """Whether test is scored at the end; otherwise only `measure_test` scores it."""
    sources: Sequence[Predecessor] | None = None
    """The runs whose prompts the method reads; None: it finds them where its options say."""
    stop: str | None = None
    """Why it ends where it is, with its best state so far; None: it goes on."""

    @property
    def recipe(self) -> Recipe:
        return self.spec.recipe

    @property
    def finished(self) -> bool:
        return is_finished(self.folder)

    def card(self) -> PromptCard:
        """Read the card of the finished run."""
        return PromptCard.model_validate_json((self.folder / FINISHED).read_text(encoding="utf-8"))

    def dev_score(self) -> float:
        """Read the dev score of the finished run, in the task's first metric."""
        score: float = self.card().scores["dev"]["metrics"][self.task.metrics[0]]
        return score


def relevant_origin(origin: Mapping[str, object]) -> object:
    """Return the part of a task's origin that says which examples it has, wherever its files lie."""
    kept = {name: value for name, value in origin.items() if name not in ("data_dir", "data", "dev", "test", "notes")}
    if kept.get("draw") == 1:  # 0.1.0 did not write it
        del kept["draw"]
    kept["sha256"] = sorted(_leaves(kept.get("sha256")))
    return json.loads(json.dumps(kept))


def draw_as_before(task: Task, folder: Path) -> Task:
    """Draw a task's splits as the experiment in `folder` did where that was begun by 0.1.0; else return it as it is."""
    if "draw" not in task.origin:
        return task
    kept = next((path for name in ("search.json", f"**/{PLAN}") for path in sorted(folder.glob(name))), None)
    try:
        was = json.loads(kept.read_text(encoding="utf-8"))["task"] if kept else {}
    except (OSError, ValueError, KeyError):
        return task  # a damaged file is refused where it is read
    old = "sha256" in was and "draw" not in was
    return task_again({**task.origin, "draw": 1}) if old else task


def _leaves(value: object) -> list[str]:
    if isinstance(value, Mapping):
        return [leaf for part in value.values() for leaf in _leaves(part)]
    return [] if value is None else [str(value)]


def check_spec(run: PlannedRun) -> None:
    """Raise BadInput where the folder of `run` holds a run with another spec."""
    path = run.folder / PLAN
    if not path.is_file():
        return
    try:
        before = JobSpec.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadArtefact(
            f"{path} is not a valid plan.json: {error}. Delete the folder to start this run again."
        ) from None
    was, now = before.relevant(), run.spec.relevant()
    start = read_run_card(run.folder).start_from if (run.folder / "run.json").is_file() else None
    was["start_from"] = None if start is None else start.sha256
    now["start_from"] = None if run.predecessor is None else run.predecessor.record.sha256
    other = [name for name in now if was.get(name) != now[name]]
    if other:
        raise BadInput(
            f"{run.folder} holds a run with another {' and another '.join(other)} ({PLAN}). Give the arguments it was "
            "begun with, or another --output."
        )
