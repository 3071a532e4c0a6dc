"""check(): find everything that is wrong with the arguments of train, without loading weights."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch

from softprompt.backbones.load import find_device, find_dtype
from softprompt.errors import BadInput, PromptMismatch, SoftPromptError
from softprompt.methods.registry import get_method
from softprompt.recipes import Recipe
from softprompt.recipes.override import check_names, taken
from softprompt.runs.run_folder import check_folder
from softprompt.runs.start_from import Predecessor, read_predecessor
from softprompt.runtime.arguments import parse_model
from softprompt.runtime.files import JsonObject
from softprompt.training.arguments import RunArguments
from softprompt.training.request import (
    check_answers,
    choose_methods,
    dtype_name,
    given_settings,
    make_recipes,
    needs_float32,
    one_of,
    read_task,
    require_backbone,
)

T = TypeVar("T")


@dataclass(frozen=True)
class CheckReport:
    """What train would do, and all that stands in its way."""

    resolved: JsonObject
    """By name: task, backbone, each method's recipe, ... as JSON."""
    problems: list[str]

    def as_json(self) -> JsonObject:
        return {"resolved": self.resolved, "problems": self.problems}


def check(
    given: Mapping[str, object], output: str | Path | None = None, problems: list[str] | None = None
) -> CheckReport:
    """Resolve what train would be given, and report all problems at once; `problems` are those found before."""
    found = list(problems or [])
    return Check(_parse_each(given, found), found).report(output)


def _parse_each(given: Mapping[str, object], problems: list[str]) -> RunArguments:
    """Make arguments of those values that are valid; the others become problems."""
    valid: dict[str, object] = {}
    for name, value in given.items():
        try:
            parse_model(RunArguments, {name: value})
        except BadInput as error:
            problems.append(str(error))
        else:
            valid[name] = value
    return parse_model(RunArguments, valid)


class Check:
    """The arguments, what they resolve to, and what is wrong with them."""

    def __init__(self, arguments: RunArguments, problems: list[str]) -> None:
        self.arguments, self.problems = arguments, problems
        self.resolved: JsonObject = {}

    def attempt(self, resolve: Callable[[], T]) -> T | None:
        """Return what `resolve` returns; None, and one problem more, when it raises a SoftPromptError."""
        try:
            return resolve()
        except SoftPromptError as error:
            if str(error) not in self.problems:  # several methods may all say it
                self.problems.append(str(error))
            return None

    def report(self, output: str | Path | None) -> CheckReport:
        """Resolve everything that can be resolved."""
        arguments, resolved = self.arguments, self.resolved
        resolved["placement"] = arguments.placement
        task = self.attempt(lambda: read_task(arguments, arguments.task))
        facts = self.attempt(lambda: require_backbone(arguments.backbone))
        if task is not None:
            rows = {split: len(examples) for split, examples in task.examples.items()}
            resolved["task"] = {
                "name": task.name, "rows": rows, "template": task.template, "choices": list(task.choices)
            }  # fmt: skip
            if task.notes:
                resolved["notes"] = list(task.notes)
        if facts is not None:
            resolved["backbone"] = facts
            if task is not None and (how := self.attempt(lambda: check_answers(facts, task))):
                resolved["answers"] = how
        device = self.attempt(lambda: find_device(arguments.device))
        dtype = self.attempt(
            lambda: find_dtype(arguments.dtype, device or torch.device("cpu"), facts["d"] if facts else None)
        )
        resolved |= {"device": device and str(device), "dtype": dtype and dtype_name(dtype)}
        predecessor = self.attempt(lambda: self._read_start(facts))
        if predecessor is not None:
            resolved["start_from"] = predecessor.record.model_dump()
        recipes = self._make_recipes(predecessor)
        if dtype and arguments.dtype == "auto" and needs_float32(recipes):
            resolved["dtype"] = "float32"
        for name, recipe in recipes.items():
            resolved[name] = {**recipe.model_dump(), "options": recipe.parsed_options().model_dump()}
            length = recipe.parsed_options().length
            if facts and facts["context"] and length >= facts["context"]:
                self.problems.append(
                    f"{name}: a prompt of {length} rows fills {arguments.backbone}'s {facts['context']} positions."
                )
        resolved["max_source"] = arguments.max_source
        if output is not None:
            folder = Path(output)
            self.attempt(lambda: check_folder(folder))
            resolved["output"] = str(output)
        known = {name: value for name, value in resolved.items() if value is not None}
        return CheckReport(known, self.problems)

    def _read_start(self, facts: JsonObject | None) -> Predecessor | None:
        """Read the run to start from. Of another backbone, only another hidden size shows without weights."""
        folder = self.arguments.start_from
        if folder is None:
            return None
        predecessor = read_predecessor(folder)
        card = predecessor.prompt.card
        predecessor.prompt.check_placement(self.arguments.placement)
        if facts is not None and facts["d"] != card.fingerprint.d:
            raise PromptMismatch(
                f"--start-from {folder} was tuned for {card.backbone}, hidden size {card.fingerprint.d}; "
                f"{facts['name']} has {facts['d']}. Use that backbone, or train without --start-from."
            )
        return predecessor

    def _make_recipes(self, predecessor: Predecessor | None) -> dict[str, Recipe]:
        """Make the recipe of each method that has a valid one; a setting is unknown when no method takes it."""
        arguments = self.arguments
        given, whole = given_settings(arguments), arguments.recipe
        if whole and arguments.method:
            self.problems.append(one_of(whole, arguments.method))
        named = [whole.method] if whole else choose_methods(arguments.method, predecessor)
        methods = [name for name in named if self.attempt(lambda name=name: get_method(name))]  # type: ignore[misc]
        self.attempt(lambda: check_names(methods, given))
        seed = arguments.seed if "seed" in arguments.model_fields_set else None
        found = {}
        for method in methods:
            recipe = self.attempt(
                lambda method=method: make_recipes(  # type: ignore[misc]
                    [method], taken(method, given), seed, predecessor, arguments.max_source, whole
                )[method]
            )
            if recipe is not None:
                found[method] = recipe
        return found
