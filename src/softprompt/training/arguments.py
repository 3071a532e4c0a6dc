"""From the user's words to what a run is told: tasks and recipes."""

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from softprompt.backbones.cloze import check_supported
from softprompt.backbones.load import describe, find_device, find_dtype
from softprompt.backbones.placement import check_placement
from softprompt.errors import BadInput, MissingPackage
from softprompt.methods.registry import canonical_name, get_method
from softprompt.recipes import Recipe, Setting, parse_recipe
from softprompt.recipes.override import override_all
from softprompt.runs.start_from import Predecessor, read_predecessor, read_sources
from softprompt.runtime import distributed
from softprompt.tasks import Split, Task, from_files
from softprompt.tasks.registry import TASKS, get_task

PUBLISHED = ("protocol", "compat", "shots", "draw")
"""Words that only a published task takes, beside its folder and limit."""
OF_PUBLISHED = ("data_dir", "limit", "template", *PUBLISHED)
"""All words that a published task takes and a shipped one does not."""


def read_task(
    data: str | Path | None,
    task: str | Task | None,
    dev: str | Path | None = None,
    test: str | Path | None = None,
    template: str | None = None,
    label: str | None = None,
    words: Mapping[str, str] | None = None,
    split_seed: int = 0,
    data_dir: str | Path | None = None,
    limit: int | Mapping[Split, int] | None = None,
    published: Mapping[str, Any] | None = None,
) -> Task:
    """The task that is meant; exactly one of `data` (a file) and `task` (a task's name, or a Task) is given.

    A named task's `template` is "words" or "paper"; `published` holds what else `get_task` takes.
    """
    published = {name: value for name, value in (published or {}).items() if value is not None}
    if (data is None) == (task is None):
        raise BadInput("Give either --data FILE (your own) or --task NAME (shipped); `softprompt list tasks`.")
    if data is not None:
        if data_dir is not None or limit is not None or published:
            flags = ", ".join(f"--{name}" for name in ("data-dir", "limit", *PUBLISHED))
            raise BadInput(f"{flags} go with --task NAME, a published task; --data is one file.")
        return from_files(
            data, dev=dev, test=test, template=template, label=label, words=words or None, seed=split_seed
        )  # fmt: skip
    others: dict[str, object] = {"--dev": dev, "--test": test, "--label": label, "--word": words}
    if not isinstance(task, str) or task in TASKS:
        others |= {"--template": template, "--data-dir": data_dir, "--limit": limit}
        others |= {f"--{name}": value for name, value in published.items()}
    given = [name for name, value in others.items() if value]
    if given:
        raise BadInput(f"{', '.join(given)} only go with --data; a task brings its own.")
    if not isinstance(task, str):
        return task  # type: ignore[return-value]  # not None here
    return get_task(task, data_dir=data_dir, template=template, limit=limit, seed=split_seed, **published)


@dataclass(frozen=True)
class TrainingRequest:
    """The words of `train` but its folder, understood: what is tuned, where, on what."""

    task: Task
    setting: Setting
    methods: list[str]
    given: dict[str, Any]
    """Recipe fields and method options, by name."""
    seed: int | None
    recipe: Recipe | None
    predecessor: Predecessor | None

    def recipes(self, given: Mapping[str, Any] | None = None) -> dict[str, Recipe]:
        """The recipe of each method, with what is `given` beside the words. Raises BadInput and UnknownName."""
        return make_recipes(
            self.methods, self.given | dict(given or {}), self.seed, self.predecessor, self.setting.max_source,
            self.recipe,
        )  # fmt: skip


def parse_arguments(
    *,
    data: str | Path | None = None,
    task: str | Task | None = None,
    backbone: str,
    method: str | Sequence[str] | None = None,
    steps: int | None = None,
    batch: int | None = None,
    tokens_per_step: int | None = None,
    seed: int | None = None,
    recipe: Recipe | None = None,
    dev: str | Path | None = None,
    test: str | Path | None = None,
    template: str | None = None,
    label: str | None = None,
    words: Mapping[str, str] | None = None,
    split_seed: int = 0,
    data_dir: str | Path | None = None,
    limit: int | Mapping[Split, int] | None = None,
    protocol: str | None = None,
    compat: bool | None = None,
    shots: int | None = None,
    draw: int | None = None,
    settings: Mapping[str, Any] | None = None,
    start_from: str | Path | None = None,
    dtype: str = "float32",
    device: str | None = None,
    max_source: int = 256,
    dropout: bool = False,
    tokens_per_pass: int | None = None,
    gradient_checkpointing: bool = False,
    compile: bool = False,
    placement: str = "front",
    fsdp: bool = False,
) -> TrainingRequest:
    """What the words of `train` mean. Reads the data, not the backbone's weights. Raises BadInput and its kin."""
    distributed.check_sharding(fsdp)
    predecessor = None if start_from is None else read_predecessor(start_from)
    flags = {"steps": steps, "batch": batch, "tokens_per_step": tokens_per_step}
    given = dict(settings or {}) | {name: value for name, value in flags.items() if value is not None}
    if recipe is not None and method:
        raise BadInput(one_of(recipe, method))
    methods = [recipe.method] if recipe else choose_methods(method, predecessor)
    facts = require_backbone(backbone)
    find_dtype(dtype, find_device(device))
    published = {"protocol": protocol, "compat": compat, "shots": shots, "draw": draw}
    read = read_task(data, task, dev, test, template, label, words, split_seed, data_dir, limit, published)
    check_answers(facts, read)
    setting = Setting(
        backbone=backbone, dtype=dtype, device=device, max_source=max_source, dropout=dropout,
        gradient_checkpointing=gradient_checkpointing, compile=compile, tokens_per_pass=tokens_per_pass,
        placement=check_placement(placement), fsdp=fsdp or distributed.shards(),
    )  # fmt: skip
    return TrainingRequest(read, setting, methods, given, seed, recipe, predecessor)


def choose_methods(given: str | Sequence[str] | None, predecessor: Predecessor | None = None) -> list[str]:
    """The methods that are meant; when none is named, that of the run to start from, else prompt tuning."""
    if given:
        return [canonical_name(name) for name in ([given] if isinstance(given, str) else given)]
    return ["prompt_tuning" if predecessor is None else predecessor.method.name]


def one_of(recipe: Recipe, method: str | Sequence[str]) -> str:
    """What is said to who gives a recipe and a method."""
    return f"The recipe is one of {recipe.method}; leave out --method {' '.join(choose_methods(method))}."


def make_recipes(
    methods: Sequence[str],
    given: dict[str, Any],
    seed: int | None,
    predecessor: Predecessor | None = None,
    max_source: int = 256,
    recipe: Recipe | None = None,
) -> dict[str, Recipe]:
    """A recipe for each method, or `recipe`, changed by `given` (softprompt.recipes.override says its names).

    With a `predecessor` to start from, its options hold where `given` is silent. Raises BadInput when a method
    cannot start from it.
    """
    for name in methods:
        _has_packages(name)
    if len(set(methods)) != len(methods):
        raise BadInput(f"--method names {', '.join(methods)}: each method once.")
    if recipe is None:
        bases = [Recipe(method=get_method(name).name, seed=seed or 0) for name in methods]
    else:
        bases = [recipe if seed is None else recipe.model_copy(update={"seed": seed})]
    if predecessor is not None:  # where the prompt starts is settled: a recipe's own words about it fall
        bases = [_without_start(base) for base in bases]
    recipes = {recipe.method: _with_sources(recipe) for recipe in override_all(bases, given)}
    if predecessor is not None:
        for name, one in recipes.items():
            options = predecessor.completed(get_method(name), one.options)
            recipes[name] = parse_recipe({**one.model_dump(exclude_unset=True), "options": options})
            predecessor.check(get_method(name), recipes[name].parsed_options(), max_source)
    else:
        for name in recipes:
            _needs_no_start(name)
    return recipes


def _with_sources(recipe: Recipe) -> Recipe:
    """`recipe` with the runs that its method reads looked at, and named so that they are found from anywhere."""
    runs = [str(source.folder.resolve()) for source in read_sources(recipe.parsed_options())]
    return recipe.model_copy(update={"options": {**recipe.options, "sources": runs}}) if runs else recipe


def _needs_no_start(name: str) -> None:
    if get_method(name).options.must_start_from:
        raise BadInput(
            f"{name} starts as another run ended, and none is given: --start-from RUN, the folder of a finished run on "
            "a source task. Without one, it is prompt tuning: --method prompt_tuning."
        )


def _has_packages(name: str) -> None:
    for package in get_method(name).options.packages:
        if importlib.util.find_spec(package) is None:
            raise MissingPackage(package, f"{name} is trained through it.", f'pip install "softprompt[{package}]"')


def _without_start(recipe: Recipe) -> Recipe:
    options = get_method(recipe.method).options
    kept = {name: value for name, value in recipe.options.items() if name in (*options.of_prompt, *options.of_offset)}
    return recipe.model_copy(update={"options": kept})


def require_backbone(name: str) -> dict[str, Any]:
    """What is known of a backbone without its weights. Raises BadInput when none is named or there is none such."""
    if not name:
        raise BadInput("No backbone given: --backbone smollm2-135m, a folder or a hub id.")
    return describe(name)


def check_answers(facts: dict[str, Any], task: Task) -> str:
    """How answers are scored. Raises BadInput when this kind of backbone cannot be asked so."""
    first = task.examples["train"][0]
    check_supported(
        facts["kind"], facts["name"], choices=first.choices, mask=first.answer_at is not None, scoring=task.scoring
    )
    return task.scoring if task.choices else "generated"


def plain(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
