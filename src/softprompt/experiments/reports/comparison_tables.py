"""A comparison as text: rows for a terminal, CSV, Markdown, LaTeX."""

import csv
import io
import math
import statistics
from collections.abc import Sequence

from softprompt.evaluation.floors import FLOORS
from softprompt.experiments.endpoints import ENDPOINTS, shown, shown_difference
from softprompt.experiments.tables import ComparisonTable, MethodRow, TaskComparison
from softprompt.tasks.metrics import percent

HEADS = ("", "test", "difference", "", "trained", "stored", "tokens/s", "peak MiB", "minutes")
BESIDE = ("", "", "mean", "difference")
OVERALL = ("", "", "difference of the mean over tasks")
LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
}  # fmt: skip
COLUMNS = (
    "task", "label", "method", "metric", "mean", "deviation", "seeds", "tried", "steps", "difference", "low", "high",
    "verdict", "trainable", "stored", "tokens_per_second", "peak_memory_mib", "minutes",
)  # fmt: skip


def task_rows(part: TaskComparison) -> list[list[str]]:
    """Return one task's rows under HEADS: floors first, then the methods in their order; scores in percent."""
    blank = [""] * (len(HEADS) - 2)
    rows = [[title, percent(part.floors[name]), *blank] for name, title in FLOORS.items() if name in part.floors]
    for row in part.rows:
        spread = "" if row.deviation is None else f" ± {percent(row.deviation)}"
        difference = row.difference
        rows.append([
            row.label,
            percent(row.mean) + spread,
            "baseline" if difference is None else
            f"{100 * difference.mean:+.1f} [{100 * difference.low:+.1f}, {100 * difference.high:+.1f}]",
            "" if difference is None else difference.verdict,
            f"{row.trainable:,}",
            f"{row.stored:,}",
            *_costs(row),
        ])  # fmt: skip
    return rows


def endpoint_rows(part: TaskComparison) -> list[list[str]]:
    """Return a task's endpoints: a row for each method and endpoint, with the mean over its seeds."""
    rows = []
    for row in part.rows:
        differences = row.endpoint_differences or {}
        for name, values in (row.endpoints or {}).items():
            mean = shown(name, statistics.mean(values)).removeprefix("+")
            if ENDPOINTS[name].is_ratio and row.costs:  # steps, as long as they take a method tuned alone
                mean += f" ({math.exp(statistics.mean(values)) * row.costs.seconds_per_step:,.0f} s)"
            less = shown_difference(name, differences[name]) if name in differences else "baseline"
            rows.append([row.label, ENDPOINTS[name].title, mean, less])
    return rows


def overall_rows(table: ComparisonTable) -> list[list[str]]:
    """Return the means over tasks under OVERALL: a row for each endpoint and method."""
    return [
        [one.title, row.label, shown_difference(one.endpoint, row.difference)]
        for one in table.overall or []
        for row in one.rows
    ]


def _costs(row: MethodRow) -> list[str]:
    costs = row.costs
    if costs is None:
        return ["-"] * 3
    peak = costs.peak_memory_mib
    return [f"{costs.tokens_per_second:,.0f}", "-" if peak is None else f"{peak:,.0f}", f"{costs.minutes:.1f}"]


def as_csv(table: ComparisonTable) -> str:
    """Render table.csv, a row for each method on each task; numbers as they are (scores between 0 and 1)."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for part in table.tasks:
        for name, value in part.floors.items():
            writer.writerow({"task": part.task, "label": name, "metric": part.metric, "mean": value})
        for row in part.rows:
            writer.writerow({"task": part.task, "metric": part.metric, **_csv_values(row)})
    for one in table.overall or []:
        for mean in one.rows:
            less = mean.difference
            writer.writerow({
                "task": "mean over tasks", "label": mean.label, "metric": one.endpoint, "difference": less.mean,
                "low": less.low, "high": less.high, "verdict": less.verdict,
            })  # fmt: skip
    return text.getvalue()


def _csv_values(row: MethodRow) -> dict[str, object]:
    difference, costs = row.difference, row.costs
    return {
        "label": row.label, "method": row.method, "mean": row.mean, "deviation": row.deviation,
        "seeds": len(row.test), "tried": None if row.tried is None else len(row.tried), "steps": row.steps,
        "difference": difference and difference.mean, "low": difference and difference.low,
        "high": difference and difference.high, "verdict": difference and difference.verdict,
        "trainable": row.trainable, "stored": row.stored,
        "tokens_per_second": costs and costs.tokens_per_second, "peak_memory_mib": costs and costs.peak_memory_mib,
        "minutes": costs and costs.minutes,
    }  # fmt: skip


def as_markdown(table: ComparisonTable) -> str:
    """Render table.md."""
    lines = [f"# {table.title}", "", *(f"- {note}" for note in table.notes), ""]
    if table.overall:
        lines += [
            f"## Mean over {len(table.tasks)} tasks, less {table.tasks[0].baseline}",
            "",
            *_markdown(OVERALL, overall_rows(table)),
            "",
        ]
    for part in table.tasks:
        lines += [
            f"## {part.task}: {part.metric}",
            "",
            f"{_examples(part)}; baseline `{part.baseline}`.",
            "",
            *_markdown(HEADS, task_rows(part)),
            "",
        ]
        if beside := endpoint_rows(part):
            lines += [*_markdown(BESIDE, beside), ""]
    return "\n".join(lines)


def _markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [
        f"| {' | '.join(heads)} |",
        f"|---|{'---:|' * (len(heads) - 1)}",
        *(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows),
    ]


def as_latex(table: ComparisonTable) -> str:
    """Render table.tex, a table for each task, for the package booktabs."""
    lines = [f"% {table.title}"]
    lines += [f"% {note}" for note in table.notes]
    for part in table.tasks:
        heads = " & ".join(map(escape_latex, HEADS))
        lines += [
            r"\begin{table}",
            rf"\caption{{{escape_latex(part.task)}: {escape_latex(part.metric)} on test, in percent. "
            rf"{escape_latex(_examples(part))}.}}",
            rf"\begin{{tabular}}{{l{'r' * (len(HEADS) - 1)}}}",
            r"\toprule",
            rf"{heads} \\",
            r"\midrule",
            *(rf"{' & '.join(map(escape_latex, row))} \\" for row in task_rows(part)),
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
        ]
    return "\n".join(lines) + "\n"


def escape_latex(text: str) -> str:
    """Escape what LaTeX would read as a command; ± goes into mathematics."""
    escaped = "".join(LATEX.get(letter, letter) for letter in text)
    return escaped.replace("±", r"$\pm$")


def _examples(part: TaskComparison) -> str:
    return f"{part.test_examples:,} test examples"


def print_overall(table: ComparisonTable) -> tuple[str, Sequence[str], list[list[str]]]:
    """Return the title, heads and rows of the means over tasks, for softprompt.cli.printing.print_table."""
    return f"mean over {len(table.tasks)} tasks, less {table.tasks[0].baseline}", OVERALL, overall_rows(table)


def print_rows(part: TaskComparison) -> tuple[str, Sequence[str], list[list[str]]]:
    """Return the title, heads and rows that softprompt.cli.printing.print_table takes."""
    return f"{part.task}: {part.metric}, {_examples(part)}", HEADS, task_rows(part)
