"""Resolve and check the arguments of a run: its task, its setting and a recipe for each method."""

import importlib.util
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from softprompt.backbones.chat import find_chat
from softprompt.backbones.families import get_family
from softprompt.backbones.load import describe, find_device, find_dtype
from softprompt.errors import BadInput, MissingPackage
from softprompt.methods.registry import canonical_name, get_method
from softprompt.recipes import Recipe, Setting, parse_recipe
from softprompt.recipes.budget import StepBudget
from softprompt.recipes.override import override_all
from softprompt.runs.start_from import Predecessor, read_predecessor, read_sources
from softprompt.runtime import distributed
from softprompt.runtime.arguments import given_in
from softprompt.tasks import Task, from_files
from softprompt.tasks.published.spec import PublishedRows
from softprompt.tasks.registry import get_task, is_published
from softprompt.training.arguments import CommonArguments, RunArguments

FOR_PUBLISHED = {"template", "limit", *PublishedRows.model_fields}
"""Arguments that a published task takes and a shipped one does not."""
FOR_FILES = {"dev", "test", "label", "words", "chat"}
"""Arguments that only --data takes."""


def read_task(arguments: CommonArguments, task: str | Task | None) -> Task:
    """Read the task: exactly one of `arguments.data` (a file) and `task` (a task's name, or a Task) is given.

    Raises BadInput where they do not go together, and whatever reading the rows raises.
    """
    given = {name for name, value in given_in(arguments).items() if value or value == 0}
    if (arguments.data is None) == (task is None):
        raise BadInput("Give either --data FILE (your own) or --task NAME (shipped); `softprompt list tasks`.")
    published = FOR_PUBLISHED - {"template"}
    if arguments.data is not None:
        if given & published:
            flags = ", ".join(f"--{name.replace('_', '-')}" for name in sorted(published))
            raise BadInput(f"{flags} go with --task NAME, a published task; --data is one file.")
        return from_files(
            arguments.data, dev=arguments.dev, test=arguments.test, template=arguments.template,
            label=arguments.label, words=dict(arguments.words) or None, seed=arguments.split_seed,
            chat=find_chat(require_backbone(arguments.backbone)["name"]) if arguments.chat else None,
        )  # fmt: skip
    named = isinstance(task, str) and is_published(task)
    wrong = sorted(given & (FOR_FILES if named else FOR_FILES | FOR_PUBLISHED))
    if wrong:
        flags = ", ".join(f"--{name.replace('words', 'word').replace('_', '-')}" for name in wrong)
        raise BadInput(f"{flags} only go with --data; a task brings its own.")
    if not isinstance(task, str):
        assert task is not None
        return task
    rows = {name: getattr(arguments, name) for name in PublishedRows.model_fields if name in given}
    return get_task(task, template=arguments.template, limit=arguments.limit, seed=arguments.split_seed, **rows)


@dataclass(frozen=True)
class TrainingRequest:
    """Checked arguments of train: task, backbone settings and one recipe per method."""

    task: Task
    setting: Setting
    methods: list[str]
    given: dict[str, object]
    """Recipe fields and method options, by name."""
    seed: int | None
    recipe: Recipe | None
    predecessor: Predecessor | None

    def recipes(self, given: Mapping[str, object] | None = None) -> dict[str, Recipe]:
        """Make the recipe of each method, with what is `given` beside the arguments.

        Raises BadInput and UnknownName.
        """
        return make_recipes(
            self.methods, self.given | dict(given or {}), self.seed, self.predecessor, self.setting.max_source,
            self.recipe,
        )  # fmt: skip


def parse_arguments(arguments: RunArguments) -> TrainingRequest:
    """Resolve and check the arguments of a run; reads its data, not the backbone's weights. Raises BadInput."""
    if arguments.recipe is not None and arguments.method:
        raise BadInput(one_of(arguments.recipe, arguments.method))
    request = parse_common(arguments, arguments.task)
    methods = [arguments.recipe.method] if arguments.recipe else choose_methods(arguments.method, request.predecessor)
    request = replace(request, setting=settle_dtype(request.setting, arguments.dtype, methods))
    seed = arguments.seed if "seed" in arguments.model_fields_set else None
    return replace(request, methods=methods, seed=seed, recipe=arguments.recipe)


def settle_dtype(setting: Setting, asked: str, methods: Iterable[str]) -> Setting:
    """Choose float32 where "auto" was asked for and one of the methods trains tensors of the network itself."""
    return setting.model_copy(update={"dtype": "float32"}) if asked == "auto" and needs_float32(methods) else setting


def needs_float32(methods: Iterable[str]) -> bool:
    """Tell whether one of the methods trains tensors of the network itself, which must then be in float32."""
    return any(get_method(name).options.needs_float32 for name in methods)


def parse_common(arguments: CommonArguments, task: str | Task | None) -> TrainingRequest:
    """Resolve and check what all verbs that train take, on one task; the request names no method yet."""
    distributed.check_sharding(arguments.fsdp)
    predecessor = None if arguments.start_from is None else read_predecessor(arguments.start_from)
    facts = require_backbone(arguments.backbone)
    dtype = find_dtype(arguments.dtype, find_device(arguments.device), facts["d"])
    read = read_task(arguments, task)
    check_answers(facts, read)
    if arguments.class_weights and not read.choices:
        raise BadInput(
            f"--class-weights {arguments.class_weights} weighs the answers of a task with choices, and this one is "
            "answered in free text. Leave it out."
        )
    setting = Setting(**{name: getattr(arguments, name) for name in Setting.model_fields})
    setting = setting.model_copy(
        update={"dtype": dtype_name(dtype), "fsdp": arguments.fsdp or distributed.shards()}  # a resumed run keeps them
    )
    return TrainingRequest(read, setting, [], given_settings(arguments), None, None, predecessor)


def given_settings(arguments: CommonArguments) -> dict[str, object]:
    """Return the recipe fields and method options that were given: --set, and the flags of the recipe's own fields."""
    steps = {name: value for name, value in given_in(arguments).items() if name in StepBudget.model_fields}
    return {**arguments.settings, **steps}


def choose_methods(given: str | Sequence[str] | None, predecessor: Predecessor | None = None) -> list[str]:
    """Return the methods to train; when none is given, that of the run to start from, else prompt tuning."""
    if given:
        return [canonical_name(name) for name in ([given] if isinstance(given, str) else given)]
    return ["prompt_tuning" if predecessor is None else predecessor.method.name]


def one_of(recipe: Recipe, method: str | Sequence[str]) -> str:
    """Return the error for a recipe and a method that are both given."""
    return f"The recipe is one of {recipe.method}; leave out --method {' '.join(choose_methods(method))}."


def make_recipes(
    methods: Sequence[str],
    given: dict[str, object],
    seed: int | None,
    predecessor: Predecessor | None = None,
    max_source: int = 256,
    recipe: Recipe | None = None,
) -> dict[str, Recipe]:
    """Make a recipe for each method, checked.

    Args:
      methods: Names of methods.
      given: Recipe fields and method options by name (softprompt.recipes.override).
      seed: Seed of every recipe; None: the recipe's own.
      predecessor: Run to start from; its options hold where `given` has none.
      max_source: Maximum source tokens of the backbone.
      recipe: Recipe to change, of the one method; None: the methods' defaults.
    Raises:
      BadInput: A value does not fit, or a method cannot start from `predecessor`.
      UnknownName: No method takes a name in `given`.
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
    """Check the runs that the method of `recipe` reads, and name them by absolute paths."""
    runs = [str(source.folder.resolve()) for source in read_sources(recipe.parsed_options())]
    return recipe.model_copy(update={"options": {**recipe.options, "sources": runs}}) if runs else recipe


def _needs_no_start(name: str) -> None:
    if get_method(name).options.must_start_from:
        raise BadInput(
            f"{name} starts from another run, and none is given: --start-from RUN, the folder of a finished run on "
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
    """Return what is known of a backbone without its weights. Raises BadInput when none is named or it is unknown."""
    if not name:
        raise BadInput("No backbone given: --backbone smollm2-135m, a folder or a hub id.")
    return describe(name)


def check_answers(facts: dict[str, Any], task: Task) -> str:
    """Return how answers are scored. Raises BadInput when this kind of backbone cannot answer the task so."""
    first = task.examples["train"][0]
    get_family(facts["kind"]).check_examples(
        facts["name"], choices=first.choices, mask=first.answer_at is not None, scoring=task.scoring
    )
    return task.scoring if task.choices else "generated"


def dtype_name(dtype: torch.dtype) -> str:
    """Return the name of `dtype` without its module: "bfloat16"."""
    return str(dtype).removeprefix("torch.")
