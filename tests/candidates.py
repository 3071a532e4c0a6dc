"""Candidates on tiny models: a task of eight sentences, a recipe of six steps, and the run that they end in."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from softprompt.backbones import Backbone
from softprompt.evaluation.floors import measure_floors
from softprompt.methods.registry import get_method
from softprompt.recipes import Recipe
from softprompt.runs.prompt import Prompt
from softprompt.tasks import Example, Task
from softprompt.training.candidate import Candidate, make_candidate
from softprompt.training.finish import finish
from softprompt.training.loop import tune
from softprompt.training.run import Setting, begin
from tests import tiny
from tests.sources import LENGTH, sources_for


def one_of_each_kind(methods: Iterable[str]) -> list[str]:
    """List the first method of each kind: what a backbone computes depends on a soft prompt's kind, not its method."""
    return list({get_method(name).kind: name for name in reversed(list(methods))}.values())


def on_families(methods: Iterable[str], others: Iterable[str] = ("t5", "bert")) -> list[tuple[str, str]]:
    """List (family, method): all methods on a decoder, one of each kind on the `others`."""
    methods = list(methods)
    kinds = one_of_each_kind(methods)
    return [("llama", name) for name in methods] + [(family, name) for family in others for name in kinds]


def tiny_task(choices: tuple[str, ...] = ("good", "bad")) -> Task:
    """Eight sentences, told apart by one word."""
    texts = ["a red b", "c red d e", "red f", "g h red", "a blue b", "c blue d e", "blue f", "g h blue"]
    examples = [
        Example(text, "good" if "red" in text else "bad", " team :", choices, (), str(i))
        for i, text in enumerate(texts)
    ]
    metrics = ("accuracy",) if choices else ("exact_match",)
    return Task("tiny", {"train": examples, "dev": examples, "test": examples}, choices, metrics, "{text} team :")


def candidate(backbone: Backbone, method: str, task: Task | None = None, **recipe: Any) -> Candidate:
    sources = {"sources": sources_for(backbone)} if "sources" in get_method(method).options.model_fields else {}
    options = {"length": LENGTH, **tiny.small(method), **sources}
    recipe = {"options": options, "steps": 6, "batch": 4, "evaluate_every": 3, **recipe}
    return make_candidate(method, Recipe(method=method, **recipe), backbone, task or tiny_task())


def finished(folder: Path, method: str = "dept", family: str = "llama") -> Prompt:
    backbone = tiny.backbone(family)
    one = candidate(backbone, method)
    run = begin(one, folder, Setting(backbone=backbone.name))
    tune(backbone, [one])
    floors = measure_floors(backbone, one.task)
    return finish(backbone, run, floors)
