"""List and describe methods, tasks, runs and this machine as plain data, for the command line to print."""

import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import torch

from softprompt.backbones import EMBEDDED
from softprompt.backbones.bundled import cache_folder
from softprompt.backbones.families import BACKBONE_FAMILIES
from softprompt.backbones.load import describe, find_device, skeleton
from softprompt.backbones.token_cache import kept_bytes
from softprompt.errors import BadInput, UnknownName
from softprompt.evaluation.nearest_words import nearest_words
from softprompt.methods.folded import Folded
from softprompt.methods.parameter_count import count_baseline, count_parameters
from softprompt.methods.registry import Method, list_methods
from softprompt.recipes.registry import RECIPES, TABLES, get_recipe
from softprompt.runs.predict import load_for
from softprompt.runs.prompt import load_prompt
from softprompt.runs.run_folder import versions
from softprompt.runtime.arguments import parse_model
from softprompt.tasks import CATALOGUE, Task
from softprompt.tasks.published.entry import Entry
from softprompt.tasks.registry import TASKS, get_task, load_task_plugins
from softprompt.training.arguments import CommonArguments
from softprompt.training.request import read_task


def show_run(run: str | Path, words: int = 5, backbone: str | None = None) -> dict[str, object]:
    """Describe a run; with `words` > 0 also the nearest vocabulary words of each prompt row."""
    prompt = load_prompt(run)
    found: dict[str, object] = prompt.card.model_dump()
    found["words"] = []
    if words and isinstance(prompt.form, Folded):  # rows that depend on the input have no words of their own
        frozen = load_for(prompt, backbone, "float32", "cpu")
        found["words"] = [
            [{"token": token, "cosine": round(cosine, 4)} for token, cosine in row]
            for row in nearest_words(frozen, prompt.folded.prompt, words)
        ]
    return found


def show_task(name: str, given: Mapping[str, object]) -> dict[str, object]:
    """Describe a task: rows and targets by split, one example, and what its data lacks of the published.

    `given` are the arguments of training that say which rows are read, and how they are asked.
    """
    task = read_task(parse_model(CommonArguments, given), name)
    first = task.examples["train"][0]
    return {
        "name": task.name, "version": task.version, "metrics": list(task.metrics), "choices": list(task.choices),
        "rows": {split: len(examples) for split, examples in task.examples.items()},
        "balance": {
            split: dict(Counter(example.target for example in examples).most_common()) if task.choices else {}
            for split, examples in task.examples.items()
        },
        "example": {"source": first.source + first.cue, "answers": list(first.golds())},
        "notes": task.origin.get("notes", {}),
    }  # fmt: skip


Rows: TypeAlias = Sequence[Mapping[str, object]]
COUNTED = ("trainable", "stored")
LIST_COLUMNS: dict[str, tuple[str, ...]] = {
    "methods": ("name", "kind", "prompt", "offset", "year", "authors", "title"),
    "backbones": ("name", "kind", "about"),
    "tasks": ("name", "rows", "choices", "hub", "about"),
    "recipes": ("name", "method", "options", "rates", "length", "protocol", "backbone"),
    "tables": ("name", "tasks", "lines", "backbone", "title"),
}


def list_rows(what: str, backbone: str | None = None, max_source: int = 256) -> Rows:
    """Return the rows of `softprompt list methods|backbones|tasks|recipes|tables`.

    Methods, with a `backbone` given, say how many values they train and store there at their default options, for
    `max_source` source tokens.
    """
    if backbone is not None and what != "methods":
        raise BadInput(f"list {what} --backbone {backbone}: only methods are counted for a backbone (list methods).")
    if what == "methods":
        return _method_rows(backbone, max_source)
    if what == "backbones":
        return [
            *({"name": model.name, "kind": model.kind, "about": model.about} for model in EMBEDDED.values()),
            *(
                {"name": "FOLDER or hub id", "kind": family.name, "about": family.about()}
                for family in BACKBONE_FAMILIES.values()
            ),
        ]
    if what == "tasks":
        load_task_plugins()
        return [*(_task_row(name, get_task(name)) for name in TASKS), *map(_entry_row, CATALOGUE.values())]
    if what == "recipes":
        return recipe_rows()
    if what == "tables":
        return published_rows()
    raise UnknownName("list", what, LIST_COLUMNS)


def columns_of(what: str, rows: Rows) -> tuple[str, ...]:
    """Return the columns that a table of `rows` shows: of methods, their counts where there are any."""
    columns = LIST_COLUMNS[what]
    counted = tuple(name for name in COUNTED if rows and name in rows[0])
    return (columns[0], *counted, *columns[1:])


def _method_rows(backbone: str | None, max_source: int) -> Rows:
    methods = list_methods()
    if backbone is None:
        return [method.describe() for method in methods]
    d, network = describe(backbone)["d"], skeleton(backbone)

    def counts(method: Method) -> dict[str, object]:
        if method.kind != "network":
            return count_parameters(method, method.options(), d=d, positions=max_source)._asdict()
        try:
            return count_baseline(method, method.options(), network)._asdict()
        except BadInput:  # this network has nothing for it, or PEFT is not installed
            return dict.fromkeys(COUNTED)

    return [{**method.describe(), **counts(method)} for method in methods]


def environment() -> dict[str, object]:
    """Versions, device, threads, cache, and how much of it are token ids."""
    return {
        **versions(), "platform": platform.platform(), "device": str(find_device()), "threads": torch.get_num_threads(),
        "cache": str(cache_folder()), "token_cache": f"{kept_bytes() / 1e6:.1f} MB",
    }  # fmt: skip


def _task_row(name: str, task: Task) -> dict[str, object]:
    rows = "/".join(str(len(examples)) for examples in task.examples.values())
    about = (TASKS[name].__doc__ or "").strip()
    return {"name": name, "rows": rows, "choices": ", ".join(task.choices), "hub": None, "about": about}


def _entry_row(entry: Entry) -> dict[str, object]:
    """Describe a published task without reading it; dev is "-" where it is drawn from train."""
    hub = entry.path if entry.config is None else f"{entry.path} {entry.config}"
    choices = ", ".join(entry.words.words) or None
    return {"name": entry.name, "rows": entry.published_rows(), "choices": choices, "hub": hub, "about": entry.about}


def recipe_rows() -> Rows:
    """Return what `list recipes` shows."""
    rows: list[Mapping[str, object]] = []
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


def published_rows() -> Rows:
    """Return what `list tables` shows."""
    return [
        {
            "name": table.name, "tasks": ", ".join(column.heading for column in table.columns),
            "lines": ", ".join(line.name for line in table.lines if line.plan), "backbone": table.backbone,
            "title": table.title,
        }
        for table in TABLES.values()
    ]  # fmt: skip
