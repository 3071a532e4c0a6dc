"""Floors: what a tuned prompt must beat, scored on test. Without labels there are two; rivals learn from them, too."""

from collections.abc import Mapping, Sequence

from softprompt.backbones import Backbone
from softprompt.evaluation.evaluate import ScoresJson, majority, score, score_task
from softprompt.evaluation.rivals import can_rival, rival_records
from softprompt.tasks import Task

FLOORS: Mapping[str, str] = {
    "majority": "commonest answer",
    "zero_shot": "no prompt (zero-shot)",
    "calibrated": "no prompt, calibrated",
    "tfidf": "TF-IDF, logistic regression",
    "probe": "probe of frozen states",
}
"""Titles of the floors, in the order in which they are shown."""


def measure_floors(backbone: Backbone, task: Task, rivals: Sequence[str] = ()) -> dict[str, ScoresJson]:
    """Score the floors of a task on test, as JSON by name; of `rivals` those that can answer the task."""
    zero_shot, _ = score_task(backbone, task, "test")
    found = {"majority": majority(backbone, task, task.examples["test"]).as_json(), "zero_shot": zero_shot.as_json()}
    return found | measure_rivals(backbone, task, rivals)


def measure_rivals(backbone: Backbone, task: Task, rivals: Sequence[str]) -> dict[str, ScoresJson]:
    """Score those of `rivals` that can answer a task, on test."""
    if not can_rival(task):
        return {}
    return {name: score(rival_records(name, backbone, task), task.metrics).as_json() for name in rivals}
