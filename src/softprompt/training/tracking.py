"""Log to trackers (TensorBoard, Weights & Biases, MLflow, Trackio) through accelerate what metrics.jsonl holds."""

import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

from accelerate import Accelerator
from accelerate.tracking import GeneralTracker
from accelerate.utils import ProjectConfiguration

from softprompt.errors import MissingPackage, UnknownName
from softprompt.recipes import Setting
from softprompt.runtime import distributed
from softprompt.runtime.files import JsonObject
from softprompt.training.candidate import Candidate
from softprompt.training.loop import Listener, Tuned

TRACKERS = ("tensorboard", "wandb", "mlflow", "trackio")
"""Names, which are those of their packages too."""
PROJECT = "softprompt"
"""The project (MLflow: experiment) that runs are logged under."""

Tracker: TypeAlias = str | GeneralTracker
"""A name, or a tracker of your own in accelerate's form."""


def check_trackers(given: object) -> list[Tracker]:
    """List the trackers that are `given`: None, a Tracker, or a sequence of them.

    Raises UnknownName, and MissingPackage for a tracker that is not installed.
    """
    trackers = list(given) if isinstance(given, Sequence) and not isinstance(given, str) else [given] if given else []
    for name in trackers:
        if isinstance(name, GeneralTracker):
            continue
        if name not in TRACKERS:
            raise UnknownName("tracker", str(name), TRACKERS)
        if importlib.util.find_spec(name) is None:
            raise MissingPackage(name, f"--tracker {name} needs it.", f"pip install {name}")
    return trackers


@contextmanager
def track(
    listener: Listener, trackers: Sequence[Tracker], candidates: Sequence[Candidate], setting: Setting, folder: Path
) -> Iterator[Listener]:
    """Yield a listener that also logs to `trackers`, which start and end with the block.

    Args:
      listener: Gets every event; yielded itself without trackers.
      trackers: Names, or trackers in accelerate's form.
      candidates: Runs that are logged; of several, each under its name.
      setting: Setting of the runs, logged with their recipes.
      folder: Parent of the folder "softprompt" to which trackers write files. The first process logs for all.
    """
    if not trackers or not distributed.is_first():
        yield listener
        return
    accelerator = Accelerator(
        cpu=setting.device == "cpu", mixed_precision="no", log_with=list(trackers),
        project_config=ProjectConfiguration(logging_dir=str(folder)),
    )  # fmt: skip
    accelerator.init_trackers(PROJECT, config=_config(candidates, setting))
    try:
        yield _Logged(listener, accelerator, several=len(candidates) > 1)
    finally:
        for tracker in accelerator.trackers:
            tracker.finish()


class _Logged:
    """Logs each line of a candidate's history when it is made; of several candidates, under their names."""

    def __init__(self, listener: Listener, accelerator: Accelerator, *, several: bool) -> None:
        self.listener, self.accelerator, self.several = listener, accelerator, several

    def on_step(self, candidate: Tuned) -> None:
        self._log(candidate)
        self.listener.on_step(candidate)

    def on_evaluation(self, candidate: Tuned) -> None:
        self._log(candidate)
        self.listener.on_evaluation(candidate)

    def on_end(self, candidate: Tuned) -> None:
        self.listener.on_end(candidate)

    def _log(self, candidate: Tuned) -> None:
        line = candidate.history[-1]
        place = f"{candidate.name}/" if self.several else ""
        values = {f"{place}{name}": value for name, value in flatten(line).items() if name != "step"}
        self.accelerator.log(values, step=line["step"])


def flatten(value: Mapping[str, object], place: str = "") -> JsonObject:
    """Join nested names with slashes: {"dev": {"accuracy": 1.0}} is {"dev/accuracy": 1.0}. None is left out."""
    found: JsonObject = {}
    for name, item in value.items():
        if isinstance(item, Mapping):
            found |= flatten(item, f"{place}{name}/")
        elif item is not None:
            found[f"{place}{name}"] = item
    return found


def _config(candidates: Sequence[Candidate], setting: Setting) -> JsonObject:
    """Return the contents of run.json, flat; trackers take plain values only."""
    config: JsonObject = {"setting": setting.model_dump(), "task": candidates[0].task.origin}
    for one in candidates:
        recipe = {"recipe": one.recipe.model_dump(mode="json")}
        config |= {one.name: recipe} if len(candidates) > 1 else recipe
    plain = (bool, int, float, str)
    return {name: value if isinstance(value, plain) else str(value) for name, value in flatten(config).items()}
