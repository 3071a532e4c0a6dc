"""Read a whole run from a file or by name: a config file, the run.json of a run, a paper's recipe.

A config file is YAML or JSON in the schema of `softprompt.recipes.Plan`; what `show recipe NAME` prints is one:

    task: {task: glue/rte, protocol: fair}      # or task: glue/rte, or data: my.csv
    setting: {backbone: smollm2-135m, max_source: 128}
    recipe: {method: dept, options: {length: 20, rank: 60}, steps: 500, rates: {prompt: 0.1}}
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from softprompt.errors import BadArtefact, BadInput, UnknownName
from softprompt.methods.registry import get_method
from softprompt.recipes import Plan, parse_recipe
from softprompt.recipes.registry import get_recipe
from softprompt.recipes.setting import parse_setting
from softprompt.runs.run_card import read_run_card
from softprompt.runs.start_from import StartFrom, read_predecessor
from softprompt.runtime.config_file import read_mapping
from softprompt.runtime.files import JsonObject
from softprompt.tasks.published.spec import TaskSpec, parse_spec
from softprompt.tasks.registry import task_again

Parsed = TypeVar("Parsed")

KEYS = {*Plan.model_fields, "data"}
DATA = ("data", "dev", "test", "template", "chat", "label", "words", "split_seed")
"""Arguments about your own files."""
ROWS = (*DATA, "task", "data_dir", "limit", "protocol", "compat", "shots", "draw")
"""Arguments about examples: where other data is given, those of a file are left out."""


def plan_arguments(path: str | Path | None = None, recipe: str | None = None) -> JsonObject:
    """Read the arguments of train from a config file or run.json at `path`, or from a recipe by name.

    Raises BadInput (with the file, and a line where one is at fault), UnknownName, BadArtefact.
    """
    if path is not None and recipe is not None:
        raise BadInput(f"--recipe {recipe} and {path}: give one of them.")
    if recipe is not None:
        return _plan_arguments(get_recipe(recipe))
    if path is None:
        return {}
    path = Path(path)
    if path.is_dir():
        if not (path / "run.json").is_file():
            raise BadInput(f"{path} is a folder without a run.json; expected a config file, a run.json or a run.")
        path = path / "run.json"
    value = read_mapping(path, "a config file (YAML or JSON) or a run.json", "task, setting, recipe")
    if "format" in value or "versions" in value:
        return _run_arguments(path)
    for key in value:
        if key not in KEYS:
            raise UnknownName(f"key of {path}", str(key), KEYS)
    if ("task" in value) == ("data" in value):
        raise BadInput(f"{path}: expected either task (a published or shipped one) or data (your own file).")
    words: JsonObject = {}
    if value.get("recipe") is not None:  # without one it is --method's
        words["recipe"] = _parse_part(path, "recipe", value["recipe"], parse_recipe)
    words |= _parse_part(path, "setting", value.get("setting"), parse_setting).model_dump(exclude_unset=True)
    if "data" in value:
        return words | _own_data(path, value["data"])
    task = value["task"]
    spec = {"task": task} if isinstance(task, str) else task
    return words | _task_arguments(_parse_part(path, "task", spec, parse_spec))


def add_plan(
    values: Mapping[str, object], plan: Path | None, config: Path | None, recipe: str | None
) -> dict[str, object]:
    """Fill in `values`, the arguments that were given, from a plan, a config file or a paper's recipe.

    What the plan says of its data is left out where other data is given. Raises BadInput for more than one of them.
    """
    if plan is not None and config is not None:
        raise BadInput(f"{plan} and --config {config}: give one of them.")
    planned = plan_arguments(plan or config, recipe)
    other = ("data" in planned and "task" in values) or ("task" in planned and "data" in values)
    return {name: value for name, value in planned.items() if not (other and name in ROWS)} | dict(values)


def _plan_arguments(plan: Plan) -> JsonObject:
    setting = plan.setting.model_dump(exclude_unset=True)
    return {"recipe": plan.recipe, **setting, **_task_arguments(plan.task)}


def _task_arguments(spec: TaskSpec) -> JsonObject:
    """Return the arguments of `spec` that are not defaults: a shipped task takes no others."""
    names = {"form": "template", "seed": "split_seed"}
    found = spec.model_dump(exclude_defaults=True)
    return {names.get(name, name): value for name, value in found.items()}


def _run_arguments(path: Path) -> JsonObject:
    card = read_run_card(path)
    get_method(card.recipe.method)
    if card.distillation is not None:
        raise BadInput(f"{path} is of a run on several tasks; do it again with softprompt distil and its teachers.")
    words = {"recipe": card.recipe, "task": task_again(card.task), **card.setting.model_dump()}
    if card.start_from is not None:
        words["start_from"] = _unchanged(path, card.start_from)
    return words


def _unchanged(path: Path, record: StartFrom) -> Path:
    found = read_predecessor(record.folder)
    if found.record.sha256 != record.sha256:
        raise BadArtefact(f"{path} started from {record.folder}, whose tensors are no longer those; put them back.")
    return found.folder


def _own_data(path: Path, given: object) -> JsonObject:
    own: JsonObject = {"data": given} if isinstance(given, str) else _mapping(path, "data", given)
    for key, value in own.items():
        if key not in DATA:
            raise UnknownName(f"key of data in {path}", key, DATA)
        kind, expected = (
            (int, "a number") if key == "split_seed" else (dict, "LABEL: WORD") if key == "words" else (str, "text")
        )
        if not isinstance(value, kind):
            raise BadInput(f"{path}: data.{key} is {value!r}; expected {expected}.")
    if "data" not in own:
        raise BadInput(f"{path}: data names no file; expected data: FILE, or data: {{data: FILE, ...}}.")
    words = own.get("words")
    if not isinstance(words, dict):
        return own
    for label, word in words.items():
        if isinstance(label, bool) or isinstance(word, bool):
            raise BadInput(f"{path}: data.words has {label}: {word}; put true and false in quotes.")
    # Labels like 0 and 1 are read as numbers.
    return {**own, "words": {str(label): str(word) for label, word in words.items()}}


def _mapping(path: Path, key: str, value: object) -> JsonObject:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise BadInput(f"{path}: {key} is {value!r}; expected names and values.")
    return {str(name): item for name, item in value.items()}


def _parse_part(path: Path, key: str, value: object, parse: Callable[[JsonObject], Parsed]) -> Parsed:
    """Parse one part of a config file; an error in it names the file."""
    given = _mapping(path, key, value)
    try:
        return parse(given)
    except BadInput as error:
        raise BadInput(f"{path}: {error}") from None
