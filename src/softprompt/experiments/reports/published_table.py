"""A reproduced table beside the published one: its cells from finished runs, Markdown, rows for a terminal."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from softprompt.evaluation.bootstrap import bootstrap
from softprompt.evaluation.floors import FLOORS
from softprompt.experiments.finished_run import read_finished, read_references
from softprompt.experiments.tables import Cell, ReproductionTable, TableColumn
from softprompt.recipes.tables import Column, Line, Score, as_number
from softprompt.runs.prompt import load_prompt
from softprompt.tasks import Task
from softprompt.tasks.metrics import percent


def make_cell(folders: Sequence[Path], tasks: Sequence[Task], column: Column, line: Line) -> Cell:
    """Read the cell of finished runs, one for each seed; `tasks` are what each was trained on."""
    cards = [load_prompt(folder).card for folder in folders]
    metric = "+".join(find_metric(part, tasks[0].metrics) for part in column.metric.split("+"))
    scores = [_value(card.scores["test"]["metrics"], metric) for card in cards]
    others = [card.scores[name] for card in cards for name in ("test_generated", "test_ranked") if name in card.scores]
    generated = [c.scores["test" if tasks[0].scoring == "generated" else "test_generated"] for c in cards if others]
    return Cell(
        line=line.name,
        task=column.task,
        metric=metric,
        scores=scores,
        dev=[_value(card.scores["dev"]["metrics"], metric) for card in cards],
        other=[_value(other["metrics"], metric) for other in others],
        unparsable=statistics.mean(one["unparsable"] / one["n"] for one in generated) if generated else 0.0,
        interval=_interval(folders, tasks, metric.split("+")),
        steps=[card.best["step"] if card.best else 0 for card in cards],
        stopped=[card.stopped for card in cards],
        trainable=cards[0].trainable,
        published=line.published.get(column.task),
        mean=statistics.mean(scores),
        deviation=statistics.stdev(scores) if len(scores) > 1 else None,
    )


def find_metric(metric: str, metrics: Sequence[str]) -> str:
    """Return the name that a task gives a metric: "f1" is its f1(CLASS)."""
    return next(name for name in metrics if name == metric or name.startswith(f"{metric}("))


def as_markdown(table: ReproductionTable) -> str:
    """Render table.md: floors, what was published, what came out, and the gap between the two."""
    columns, heads = table.columns, " | ".join(column.heading for column in table.columns)
    lines = [
        f"# {table.title}: {table.backbone}",
        "",
        f"Protocol {table.protocol}, {table.seeds} seed{'s' if table.seeds > 1 else ''}"
        + (f" (it asks for {table.protocol_seeds})" if table.seeds < table.protocol_seeds else "")
        + ". Mean of test over seeds, standard deviation, 95 % bootstrap interval in brackets; in percent.",
        "",
        f"| | {heads} | mean |",
        f"|---|{'---|' * len(columns)}---|",
        *(f"| {' | '.join(row)} |" for row in table_rows(table, intervals=True)),
        "",
        "Metrics: " + ", ".join(f"{c.heading} {_metric(table, c)}" for c in columns) + ".",
        "Test rows: " + ", ".join(f"{c.heading} {table.rows[c.task]['test']:,}" for c in columns
                                  if c.task in table.rows) + ".",
        "",
        *(f"Stopped before its last step: `{cell.line}` on {cell.task}, seed {seed}: {why}.\n"
          for cell in table.cells for seed, why in enumerate(cell.stopped) if why),
        "## Answers read the other way",
        "",
        "Where the score above ranks the choices, the same prompts generating freely, and the reverse: mean over "
        "seeds, and in brackets the share of generated answers that were none of the choices.",
        "",
        f"| | {heads} |",
        f"|---|{'---|' * len(columns)}",
        *(f"| {' | '.join(row)} |" for row in other_rows(table)),
        "",
    ]  # fmt: skip
    return "\n".join(lines)


def table_rows(table: ReproductionTable, *, intervals: bool = False) -> list[list[str]]:
    """Return rows of text: a title, a cell for each task, the mean over tasks where all are there."""
    tasks = [column.task for column in table.columns]
    cells = {(cell.line, cell.task): cell for cell in table.cells}
    rows = []
    for floor in ("majority", "zero_shot"):
        values = [_floor(table, task, floor) for task in tasks]
        rows.append([FLOORS[floor], *map(_shown, values), _mean(values)])
    ran = {line.line for line in table.lines}
    for quoted in table.published:
        if quoted.line not in ran:
            scores = [quoted.scores.get(task) for task in tasks]
            rows.append([f"{quoted.title} (quoted)", *map(_quoted, scores), _mean_quoted(scores)])
    by_line = {line.line: line.scores for line in table.published}
    for line in table.lines:
        own = [cells.get((line.line, task)) for task in tasks]
        means = [None if cell is None else cell.mean for cell in own]
        published = by_line.get(line.line)
        title = f"{line.title}, ours" if published else f"`{line.title}`"
        rows.append([title, *(_cell(cell, intervals) for cell in own), _mean(means)])
        if published:
            scores = [published.get(task) for task in tasks]
            rows.append([f"{line.title}, published", *map(_quoted, scores), _mean_quoted(scores)])
            gaps = [_gap(mean, score) for mean, score in zip(means, scores, strict=True)]
            rows.append(["gap", *gaps, ""])
    return rows


def other_rows(table: ReproductionTable) -> list[list[str]]:
    """Return rows of the scores that the other way of reading answers gives, with the share outside the choices."""
    cells = {(cell.line, cell.task): cell for cell in table.cells}
    rows = []
    for line in table.lines:
        own = [cells.get((line.line, column.task)) for column in table.columns]
        shown = [
            f"{percent(statistics.mean(c.other))} ({percent(c.unparsable)})" if c and c.other else "-" for c in own
        ]
        rows.append([f"`{line.title}`", *shown])
    return rows


def _metric(table: ReproductionTable, column: TableColumn) -> str:
    return next((cell.metric for cell in table.cells if cell.task == column.task), column.metric)


def _interval(folders: Sequence[Path], tasks: Sequence[Task], metrics: Sequence[str]) -> tuple[float, float] | None:
    """Measure the interval of the mean; None where the runs were tested on different examples."""
    test = tasks[0].examples["test"]
    if any(task.examples["test"] != test for task in tasks) or len(test) < 2:
        return None
    runs = [read_finished(folder) for folder in folders]
    return bootstrap(metrics, [run.predictions for run in runs], *read_references(runs[0]))


def _value(metrics: Mapping[str, float], metric: str) -> float:
    return statistics.mean(metrics[part] for part in metric.split("+"))


def _floor(table: ReproductionTable, task: str, floor: str) -> float | None:
    scores = table.floors.get(task)
    metric = next((cell.metric for cell in table.cells if cell.task == task), None)
    return None if scores is None or metric is None else _value(scores[floor].metrics, metric)


def _cell(cell: Cell | None, intervals: bool) -> str:
    if cell is None:
        return "-"
    spread = "" if cell.deviation is None else f" ± {percent(cell.deviation)}"
    bounds = cell.interval if intervals else None
    return percent(cell.mean) + spread + (f" [{percent(bounds[0])}, {percent(bounds[1])}]" if bounds else "")


def _shown(value: float | None) -> str:
    return "-" if value is None else percent(value)


def _quoted(value: Score | None) -> str:
    return "-" if value is None else value if isinstance(value, str) else f"{value:.1f}"


def _mean(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    return percent(statistics.mean(known)) if len(known) == len(values) and known else "-"


def _mean_quoted(values: Sequence[Score | None]) -> str:
    known = [value for value in map(as_number, values) if value is not None]
    return f"{statistics.mean(known):.1f}" if len(known) == len(values) and known else "-"


def _gap(mean: float | None, published: Score | None) -> str:
    value = as_number(published)
    return f"{100 * mean - value:+.1f}" if mean is not None and value is not None else "-"
