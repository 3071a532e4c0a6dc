"""Write docs/arguments.md from the declared arguments: `python -m docs.make_arguments`, from the repository's root."""

from pathlib import Path

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from softprompt.experiments.arguments import CompareArguments, ManyRuns, ReproduceArguments, SweepArguments
from softprompt.recipes.recipe import Recipe
from softprompt.runtime.arguments import flag_of
from softprompt.serving.arguments import ServeArguments
from softprompt.training.arguments import CommonArguments, ConsoleArgument, RunArguments, TrainingArguments

FILE = Path(__file__).with_name("arguments.md")
HEAD = """# Arguments

Made by `python -m docs.make_arguments` from their one declaration (`src/softprompt/training/arguments.py` and what it
inherits); do not edit. `train`, `check`, `sweep`, `compare` and `reproduce` take them as flags, the Python functions of
the same names as keywords. A config file and run.json hold them under `task`, `setting` and `recipe`.

To add one: a field in the class whose verbs take it, and its use.
"""
SECTIONS: list[tuple[str, type[BaseModel], tuple[type[BaseModel], ...]]] = [
    ("Every verb that trains", CommonArguments, ()),
    ("train, check and sweep", RunArguments, (CommonArguments,)),
    ("train", TrainingArguments, (RunArguments,)),
    ("sweep, compare and reproduce", ManyRuns, (ConsoleArgument,)),
    ("sweep", SweepArguments, (RunArguments, ManyRuns)),
    ("compare", CompareArguments, (CommonArguments, ManyRuns)),
    ("reproduce", ReproduceArguments, (ManyRuns,)),
    ("serve (a config file may hold them: `--config serve.yaml`)", ServeArguments, ()),
]


def page() -> str:
    """Return the page: a table for each group of arguments, then the fields of a recipe."""
    tables = [
        f"## {title}\n\n{_table(model, {name for one in known for name in one.model_fields})}"
        for title, model, known in SECTIONS
    ]
    recipe = _rows(Recipe, set(RunArguments.model_fields) | {"method", "options"}, "--set ")
    tables.append("## Recipe fields (`--set NAME=VALUE`)\n\n" + _lines(("`--set`", "default", "what it is"), recipe))
    return "\n".join([HEAD, *tables])


def _table(model: type[BaseModel], known: set[str]) -> str:
    return _lines(("flag", "Python", "default", "what it is"), _rows(model, known))


def _rows(model: type[BaseModel], known: set[str], prefix: str = "") -> list[tuple[str, ...]]:
    rows = []
    for name, field in model.model_fields.items():
        if name in known:
            continue
        text = (field.description or "").replace("|", "\\|")
        if prefix:
            rows.append((f"`{name}`", _default(field), text))
        else:
            rows.append((_flags(name, field), f"`{name}`", _default(field), text))
    return rows


def _flags(name: str, field: FieldInfo) -> str:
    flag = flag_of(field)
    if flag.hidden:
        return ""
    return ", ".join(f"`{one}`" for one in (flag.name or f"--{name.replace('_', '-')}").split())


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    return "" if value in (None, "", (), {}) else f"`{value}`"


def _lines(heads: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (heads, ("---",) * len(heads), *rows)) + "\n"


if __name__ == "__main__":
    FILE.write_text(page(), encoding="utf-8")
