"""Whole runs by name or from a file: a paper's recipe, a config file, the run.json of a run.

A config file is YAML or JSON in the schema of `softprompt.recipes.Plan`; what `show recipe NAME` prints is one:

    task: {task: glue/rte, protocol: fair}      # or task: glue/rte, or data: my.csv
    setting: {backbone: smollm2-135m, max_source: 128}
    recipe: {method: dept, options: {length: 20, rank: 60}, steps: 500, rates: {prompt: 0.1}}
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from softprompt.errors import BadInput, UnknownName
from softprompt.methods import get_method
from softprompt.recipes import Plan, Setting, parse_recipe
from softprompt.recipes.registry import RECIPES, TABLES, get_recipe
from softprompt.tasks import task_again
from softprompt.tasks.spec import TaskSpec, parse_spec
from softprompt.training.runs import read_run_card

KEYS = {*Plan.model_fields, "data"}
DATA = ("data", "dev", "test", "template", "label", "words", "split_seed")
"""Words of `train` about files of one's own."""


def plan_words(path: str | Path | None = None, recipe: str | None = None) -> dict[str, Any]:
    """What `train` is to be told, from a config file or run.json at `path`, or from a recipe by name.

    Raises BadInput (with the file, and a line where one is at fault), UnknownName, BadArtefact.
    """
    if path is not None and recipe is not None:
        raise BadInput(f"--recipe {recipe} and {path}: give one of them.")
    if recipe is not None:
        return _words(get_recipe(recipe))
    if path is None:
        return {}
    path = Path(path)
    if path.is_dir() and (path / "run.json").is_file():
        path = path / "run.json"
    value = _read(path)
    if "versions" in value:
        return _words_of_run(path)
    for key in value:
        if key not in KEYS:
            raise UnknownName(f"key of {path}", str(key), KEYS)
    if ("task" in value) == ("data" in value):
        raise BadInput(f"{path}: expected either task (a published or shipped one) or data (your own file).")
    task, data = value.get("task"), value.get("data")
    setting = _checked(path, "setting", value.get("setting"))
    words: dict[str, Any] = {"recipe": parse_recipe(_mapping(path, "recipe", value.get("recipe")))}
    words |= Setting.model_validate(setting).model_dump(exclude_unset=True)
    if data is not None:
        own = {"data": data} if isinstance(data, str) else _mapping(path, "data", data)
        for key in own:
            if key not in DATA:
                raise UnknownName(f"key of data in {path}", str(key), DATA)
        return words | own
    spec = {"task": task} if isinstance(task, str) else _mapping(path, "task", task)
    return words | _task_words(parse_spec(spec))


def recipe_rows() -> list[dict[str, Any]]:
    """What `list recipes` shows."""
    rows = []
    for name in RECIPES:
        plan = get_recipe(name)
        recipe = plan.recipe
        rows.append({
            "name": name, "method": recipe.method, "protocol": plan.task.protocol,
            "options": ", ".join(f"{k} {v}" for k, v in recipe.options.items() if k != "start_text"),
            "rates": ", ".join(f"{k} {v:g}" for k, v in recipe.rates.items()) or "the method's rule",
            "length": f"{recipe.epochs} epochs" if recipe.epochs else f"{recipe.steps} steps",
            "backbone": plan.setting.backbone or None,
        })  # fmt: skip
    return rows


def table_rows() -> list[dict[str, Any]]:
    """What `list tables` shows."""
    return [
        {
            "name": table.name, "tasks": ", ".join(column.heading for column in table.columns),
            "lines": ", ".join(line.name for line in table.lines if line.plan), "backbone": table.backbone,
            "title": table.title,
        }
        for table in TABLES.values()
    ]  # fmt: skip


def as_yaml(plan: Plan) -> str:
    """A plan as a config file, the sources of its numbers as comments."""
    dumped = plan.model_dump(exclude_unset=True, mode="json", exclude={"sources", "notes", "grid"})
    text: str = yaml.safe_dump(dumped, sort_keys=False, allow_unicode=True, width=120)
    grid = [f"#   {name}: {', '.join(map(str, values))}" for name, values in plan.grid.items()]
    sources = [f"#   {name}: {source}" for name, source in plan.sources.items()]
    lines = [
        *(["# searched by the paper", *grid] if grid else []),
        *(["# sources", *sources] if sources else []),
        *(f"# note: {note}" for note in plan.notes),
    ]
    return text + "\n".join(lines)


def _words(plan: Plan) -> dict[str, Any]:
    setting = plan.setting.model_dump(exclude_unset=True)
    return {"recipe": plan.recipe, **setting, **_task_words(plan.task)}


def _task_words(spec: TaskSpec) -> dict[str, Any]:
    """Only what is not the default: a shipped task takes no other word."""
    names = {"form": "template", "seed": "split_seed"}
    found = spec.model_dump(exclude_defaults=True)
    return {names.get(name, name): value for name, value in found.items()}


def _words_of_run(path: Path) -> dict[str, Any]:
    card = read_run_card(path.parent if path.name == "run.json" else path)
    get_method(card.recipe.method)
    return {"recipe": card.recipe, "task": task_again(card.task), **card.setting.model_dump()}


def _read(path: Path) -> dict[str, Any]:
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BadInput(f"{path}: there is no such file; expected a config file (YAML or JSON) or a run.json.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path} cannot be read: {error}.") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise BadInput(f"{path}{line}: is neither YAML nor JSON ({getattr(error, 'problem', error)}).") from None
    if not isinstance(value, dict):
        raise BadInput(f"{path}: expected keys like task, setting, recipe; found {type(value).__name__}.")
    return value


def _mapping(path: Path, key: str, value: Any) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise BadInput(f"{path}: {key} is {value!r}; expected names and values.")
    return {str(name): item for name, item in value.items()}


def _checked(path: Path, key: str, value: Any, model: type[BaseModel] = Setting) -> dict[str, Any]:
    given = _mapping(path, key, value)
    for name in given:
        if name not in model.model_fields:
            raise UnknownName(f"{key} of {path}", name, model.model_fields)
    try:
        model(**given)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise BadInput(f"{path}: {key}.{place}={first['input']!r}: {first['msg']}.") from None
    return given
