"""What came out, beside what was published: cells of a table, as JSON, Markdown and for a terminal."""

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from softprompt.evaluation.bootstrap import bootstrap
from softprompt.recipes.tables import Column, Line, Score, as_number
from softprompt.runs.prompt import load_prompt
from softprompt.tasks import Task
from softprompt.tasks.metrics import percent


@dataclass(frozen=True)
class Cell:
    """One line of a table on one task: all its seeds. Scores lie between 0 and 1."""

    line: str
    task: str
    metric: str
    scores: list[float]
    """Of test, a seed each."""
    dev: list[float]
    other: list[float]
    """Of test, read the other way: generated where the score ranks the choices, and the reverse."""
    unparsable: float
    """Share of generated test answers that were none of the choices, mean over seeds."""
    interval: tuple[float, float] | None
    """95 % bootstrap interval of the mean; None where each seed has other test examples."""
    steps: list[int]
    """Of the checkpoints that dev chose."""
    stopped: list[str | None]
    """Why a run ended before its last step: not finite, or out of patience."""
    trainable: int
    published: Score | None

    @property
    def mean(self) -> float:
        return statistics.mean(self.scores)

    @property
    def deviation(self) -> float | None:
        return statistics.stdev(self.scores) if len(self.scores) > 1 else None

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "mean": self.mean, "deviation": self.deviation}


def cell_of(folders: Sequence[Path], tasks: Sequence[Task], column: Column, line: Line) -> Cell:
    """The cell of finished runs, a seed each; `tasks` are what each was tuned on."""
    cards = [load_prompt(folder).card for folder in folders]
    metric = "+".join(named(part, tasks[0].metrics) for part in column.metric.split("+"))
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
    )


def named(metric: str, metrics: Sequence[str]) -> str:
    """The name that a task gives a metric: "f1" is its f1(CLASS)."""
    return next(name for name in metrics if name == metric or name.startswith(f"{metric}("))


def as_markdown(found: Mapping[str, Any]) -> str:
    """A table of Markdown: floors, what was published, what came out, and the gap between the two."""
    columns = found["columns"]
    lines = [
        f"# {found['title']}: {found['backbone']}",
        "",
        f"Protocol {found['protocol']}, {found['seeds']} seed{'s' if found['seeds'] > 1 else ''}"
        + (f" (it asks for {found['protocol_seeds']})" if found["seeds"] < found["protocol_seeds"] else "")
        + ". Mean of test over seeds, standard deviation, 95 % bootstrap interval in brackets; in percent.",
        "",
        f"| | {' | '.join(c['heading'] for c in columns)} | mean |",
        f"|---|{'---|' * len(columns)}---|",
        *(f"| {' | '.join(row)} |" for row in printed_rows(found, intervals=True)),
        "",
        "Metrics: " + ", ".join(f"{c['heading']} {metric_of(found, c)}" for c in columns) + ".",
        "Test rows: " + ", ".join(f"{c['heading']} {found['rows'][c['task']]['test']:,}" for c in columns
                                  if c["task"] in found["rows"]) + ".",
        "",
        *(f"Stopped before its last step: `{cell['line']}` on {cell['task']}, seed {seed}: {why}.\n"
          for cell in found["cells"] for seed, why in enumerate(cell["stopped"]) if why),
        "## Answers read the other way",
        "",
        "Where the score above ranks the choices, the same prompts generating freely, and the reverse: mean over "
        "seeds, and in brackets the share of generated answers that were none of the choices.",
        "",
        f"| | {' | '.join(c['heading'] for c in columns)} |",
        f"|---|{'---|' * len(columns)}",
        *(f"| {' | '.join(row)} |" for row in other_rows(found)),
        "",
    ]  # fmt: skip
    return "\n".join(lines)


def printed_rows(found: Mapping[str, Any], *, intervals: bool = False) -> list[list[str]]:
    """Rows of text: a title, a cell a task, the mean over tasks where all are there."""
    tasks = [column["task"] for column in found["columns"]]
    cells = {(cell["line"], cell["task"]): cell for cell in found["cells"]}
    rows = []
    for floor, title in (("majority", "commonest answer"), ("zero_shot", "no prompt (zero-shot)")):
        values = [_floor(found, task, floor) for task in tasks]
        rows.append([title, *map(_shown, values), _mean(values)])
    ran = {line["line"] for line in found["lines"]}
    for line in found["published"]:
        if line["line"] not in ran:
            values = [line["scores"].get(task) for task in tasks]
            rows.append([f"{line['title']} (quoted)", *map(_quoted, values), _mean_quoted(values)])
    quoted = {line["line"]: line["scores"] for line in found["published"]}
    for line in found["lines"]:
        own = [cells.get((line["line"], task)) for task in tasks]
        means = [cell and cell["mean"] for cell in own]
        published = quoted.get(line["line"])
        title = f"{line['title']}, ours" if published else f"`{line['title']}`"
        rows.append([title, *(_cell(cell, intervals) for cell in own), _mean(means)])
        if published:
            values = [published.get(task) for task in tasks]
            rows.append([f"{line['title']}, published", *map(_quoted, values), _mean_quoted(values)])
            gaps = [_gap(mean, value) for mean, value in zip(means, values, strict=True)]
            rows.append(["gap", *gaps, ""])
    return rows


def other_rows(found: Mapping[str, Any]) -> list[list[str]]:
    """Rows of the scores that the other way of reading answers gives, with the share of answers outside the choices."""
    cells = {(cell["line"], cell["task"]): cell for cell in found["cells"]}
    rows = []
    for line in found["lines"]:
        own = [cells.get((line["line"], column["task"])) for column in found["columns"]]
        shown = [
            f"{percent(statistics.mean(c['other']))} ({percent(c['unparsable'])})" if c and c["other"] else "-"
            for c in own
        ]
        rows.append([f"`{line['title']}`", *shown])
    return rows


def metric_of(found: Mapping[str, Any], column: Mapping[str, str]) -> str:
    return next((c["metric"] for c in found["cells"] if c["task"] == column["task"]), column["metric"])


def _interval(folders: Sequence[Path], tasks: Sequence[Task], metrics: Sequence[str]) -> tuple[float, float] | None:
    """None where the runs were tested on different examples."""
    test = tasks[0].examples["test"]
    if any(task.examples["test"] != test for task in tasks) or len(test) < 2:
        return None
    answers = []
    for folder in folders:
        text = (folder / "predictions-test.jsonl").read_text(encoding="utf-8")
        answers.append([json.loads(line)["prediction"] for line in text.split("\n") if line])
    return bootstrap(metrics, answers, [example.golds() for example in test], [example.group for example in test])


def _value(metrics: Mapping[str, float], metric: str) -> float:
    return statistics.mean(metrics[part] for part in metric.split("+"))


def _floor(found: Mapping[str, Any], task: str, floor: str) -> float | None:
    scores = found["floors"].get(task)
    metric = next((cell["metric"] for cell in found["cells"] if cell["task"] == task), None)
    return None if scores is None or metric is None else _value(scores[floor]["metrics"], metric)


def _cell(cell: Mapping[str, Any] | None, intervals: bool) -> str:
    if cell is None:
        return "-"
    spread = "" if cell["deviation"] is None else f" ± {percent(cell['deviation'])}"
    bounds = cell["interval"] if intervals else None
    return percent(cell["mean"]) + spread + (f" [{percent(bounds[0])}, {percent(bounds[1])}]" if bounds else "")


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
