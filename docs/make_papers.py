"""Write docs/papers.md from the recipes and results/papers: `python -m docs.make_papers`, from the root."""

import json
from pathlib import Path

from softprompt.recipes import Plan
from softprompt.recipes.registry import TABLES
from softprompt.recipes.tables import Line, Table, as_number

FILE = Path(__file__).with_name("papers.md")
RESULTS = Path(__file__).parents[1] / "results" / "papers"
HEAD = """# Papers, number by number

Made by `python -m docs.make_papers` from the recipes (`src/softprompt/recipes`) and from `results/papers`; do not edit.

`softprompt train --recipe dept/glue-rte` runs one of these, `softprompt show recipe dept/glue-rte` prints it,
`softprompt reproduce dept/table1 --output runs/table1` runs a whole table and prints it beside the published one.
The column "ours" has a score when a table was run with the paper's backbone and its `table.json` was put into
`results/papers`; so far none was: that takes a GPU (the authors' 17 runs of DePT took about 270 GPU hours) and
checkpoints from the hub. What was run instead, on small models, is in [results](../results/README.md).
"""
SHORT = {"options": "", "rates": "rate of ", "decay": "decay of "}


def page() -> str:
    """Make the page."""
    return "\n".join([HEAD, *(_section(table) for table in TABLES.values() if table.name != "fair")])


def _section(table: Table) -> str:
    path = RESULTS / f"{table.name.replace('/', '-')}.json"
    ours = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"cells": []}
    means = {(cell["line"], cell["task"]): 100 * cell["mean"] for cell in ours["cells"]}
    notes = [f"- {note}" for note in table.notes]
    lines = [_line(table, line, means) for line in table.lines if line.plan]
    head = [
        f"## {table.title}",
        "",
        f"`{table.name}`, backbone `{table.backbone}`. Published scores: {table.source}.",
        "",
    ]
    return "\n".join([*head, *notes, "", *lines])


def _line(table: Table, line: Line, means: dict[tuple[str, str], float]) -> str:
    assert line.plan is not None
    columns = [column for column in table.columns if line.runs_on(column)]
    plans = {column.task: line.plan(column.task) for column in columns}
    fields = {task: _fields(plan) for task, plan in plans.items()}
    names = list(dict.fromkeys(name for one in fields.values() for name in one))
    varied = [name for name in names if len({fields[task].get(name, "") for task in fields}) > 1]
    rows = []
    for column in columns:
        published, mean = line.published.get(column.task), means.get((line.name, column.task))
        number = as_number(published)
        gap = "-" if mean is None or number is None else f"{mean - number:+.1f}"
        own = [fields[column.task].get(name, "") for name in varied]
        origins = dict.fromkeys(_source(plans[column.task], name) for name in varied)
        cells = [column.heading, *own, *(["; ".join(filter(None, origins))] if varied else [])]
        cells += [str(published or "-"), "not run" if mean is None else f"{mean:.1f}", gap]
        rows.append(f"| {' | '.join(cells)} |")
    heads = ["task", *map(_label, varied), *(["source of these"] if varied else []), "published", "ours", "gap"]
    first = next(iter(plans.values()))
    common = [name for name in names if name not in varied]
    sources: dict[str, list[str]] = {}
    for name in common:
        value = fields[first.task.task][name]
        sources.setdefault(_source(first, name), []).append(f"{_label(name)} {value}")
    notes = dict.fromkeys(note for plan in plans.values() for note in plan.notes)
    return "\n".join([
        f"### {line.title}", "",
        f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}", *rows, "",
        "The same for all:", "",
        *(f"- {', '.join(fields)}: {source or 'ours'}" for source, fields in sources.items()), "",
        *(f"- {note}" for note in notes), *([""] if notes else []),
    ])  # fmt: skip


def _fields(plan: Plan) -> dict[str, str]:
    """Return everything that a plan sets, by the name of its source."""
    recipe = plan.recipe.model_dump(exclude_unset=True)
    found: dict[str, object] = {"task.protocol": plan.task.protocol}
    found |= {f"setting.{name}": value for name, value in plan.setting.model_dump(exclude_unset=True).items()}
    found.pop("setting.backbone", None)
    for name, value in recipe.items():
        if isinstance(value, dict):
            found |= {f"{name}.{key}": one for key, one in value.items()}
        elif name != "method":
            found[name] = value
    if plan.task.shots:
        found["task.shots"] = plan.task.shots
    return {name: _value(value) for name, value in found.items()}


def _value(value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


def _label(name: str) -> str:
    head, _, tail = name.partition(".")
    words = f"{SHORT.get(head, '')}{tail}" if tail else head
    return words.replace("_", " ")


def _source(plan: Plan, name: str) -> str:
    source = plan.sources.get(name) or plan.sources.get(name.split(".")[0], "")
    return source.removeprefix("github.com/")


if __name__ == "__main__":
    FILE.write_text(page(), encoding="utf-8")
