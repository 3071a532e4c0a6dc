"""What train would do with the user's words, and all that is wrong with them, without loading weights."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch

from softprompt.backbones.load import find_device, find_dtype
from softprompt.backbones.placement import check_placement
from softprompt.errors import PromptMismatch, SoftPromptError
from softprompt.methods.registry import get_method
from softprompt.recipes import Recipe
from softprompt.recipes.override import check_names, taken
from softprompt.runs.run_folder import check_folder
from softprompt.runs.start_from import Predecessor, read_predecessor
from softprompt.tasks import Task
from softprompt.training.arguments import (
    PUBLISHED,
    check_answers,
    choose_methods,
    make_recipes,
    one_of,
    plain,
    read_task,
    require_backbone,
)
from softprompt.training.parsing import parse_limit, parse_settings, parse_words

T = TypeVar("T")


def check(words: Mapping[str, Any], output: Path | None = None) -> dict[str, Any]:
    """Resolve what train would be told: {"resolved": ..., "problems": [...]}, all problems at once.

    `words` are those of `train`, but `settings`, and `words` and `limit` too, may be as on the command line.
    """
    return Check(words).report(output)


class Check:
    """The words, what they were found to mean, and what is wrong with them."""

    def __init__(self, words: Mapping[str, Any]) -> None:
        self.words = words
        self.backbone, self.placement = words.get("backbone") or "", words.get("placement") or "front"
        self.max_source = words.get("max_source") or 256
        self.resolved: dict[str, Any] = {}
        self.problems: list[str] = []

    def attempt(self, resolve: Callable[[], T]) -> T | None:
        """What `resolve` returns; None, and one problem more, when it raises an error of ours."""
        try:
            return resolve()
        except SoftPromptError as error:
            if str(error) not in self.problems:  # several methods may all say it
                self.problems.append(str(error))
            return None

    def report(self, output: Path | None) -> dict[str, Any]:
        words, resolved = self.words, self.resolved
        if self.attempt(lambda: check_placement(self.placement)):
            resolved["placement"] = self.placement
        task = self.attempt(self._task)
        facts = self.attempt(lambda: require_backbone(self.backbone))
        if task is not None:
            rows = {split: len(examples) for split, examples in task.examples.items()}
            resolved["task"] = {
                "name": task.name, "rows": rows, "template": task.template, "choices": list(task.choices)
            }  # fmt: skip
        if facts is not None:
            resolved["backbone"] = facts
            if task is not None and (how := self.attempt(lambda: check_answers(facts, task))):
                resolved["answers"] = how
        device = self.attempt(lambda: find_device(words.get("device")))
        dtype = self.attempt(lambda: find_dtype(words.get("dtype") or "float32", device or torch.device("cpu")))
        resolved |= {"device": device and str(device), "dtype": dtype and plain(dtype)}
        predecessor = self.attempt(lambda: self._start(facts))
        if predecessor is not None:
            resolved["start_from"] = predecessor.record.model_dump()
        for name, recipe in self._recipes(predecessor).items():
            resolved[name] = {**recipe.model_dump(), "options": recipe.parsed_options().model_dump()}
            length = recipe.parsed_options().length
            if facts and facts["context"] and length >= facts["context"]:
                self.problems.append(
                    f"{name}: a prompt of {length} rows fills {self.backbone}'s {facts['context']} positions."
                )
        resolved["max_source"] = self.max_source
        if output is not None:
            self.attempt(lambda: check_folder(output))
            resolved["output"] = str(output)
        return {"resolved": {name: value for name, value in resolved.items() if value is not None},
                "problems": self.problems}  # fmt: skip

    def _task(self) -> Task:
        get = self.words.get
        limit, said = get("limit"), get("words") or {}  # text on the command line, values in a file
        return read_task(
            get("data"), get("task"), get("dev"), get("test"), get("template"), get("label"),
            said if isinstance(said, Mapping) else parse_words(said), get("split_seed") or 0, get("data_dir"),
            parse_limit(limit) if isinstance(limit, list) else limit, {name: get(name) for name in PUBLISHED},
        )  # fmt: skip

    def _start(self, facts: dict[str, Any] | None) -> Predecessor | None:
        """The run to start from. Of another backbone, only another hidden size shows without weights."""
        folder: Path | None = self.words.get("start_from")
        if folder is None:
            return None
        predecessor = read_predecessor(folder)
        card = predecessor.prompt.card
        predecessor.prompt.check_placement(self.placement)
        if facts is not None and facts["d"] != card.fingerprint.d:
            raise PromptMismatch(
                f"--start-from {folder} was tuned for {card.backbone}, hidden size {card.fingerprint.d}; "
                f"{facts['name']} has {facts['d']}. Use that backbone, or train without --start-from."
            )
        return predecessor

    def _recipes(self, predecessor: Predecessor | None) -> dict[str, Recipe]:
        """The recipe of each method that is one; a setting is unknown when none of them takes it."""
        words, whole = self.words, self.words.get("recipe")
        given = self.attempt(lambda: parse_settings(words.get("settings") or [])) or {}
        flags = {name: words.get(name) for name in ("steps", "batch", "tokens_per_step")}
        given |= {name: value for name, value in flags.items() if value is not None}
        if whole and words.get("method"):
            self.problems.append(one_of(whole, words["method"]))
        named = [whole.method] if whole else choose_methods(words.get("method"), predecessor)
        methods = [name for name in named if self.attempt(lambda name=name: get_method(name))]  # type: ignore[misc]
        self.attempt(lambda: check_names(methods, given))
        found = {}
        for method in methods:
            recipe = self.attempt(
                lambda method=method: make_recipes(  # type: ignore[misc]
                    [method], taken(method, given), words.get("seed"), predecessor, self.max_source, whole
                )[method]
            )
            if recipe is not None:
                found[method] = recipe
        return found
