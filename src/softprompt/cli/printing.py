"""Print tables, scores, runs and problems on the terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from softprompt.tasks.metrics import percent
from softprompt.training.check import CheckReport


def print_table(console: Console, title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Text in columns, never cut: the first to the left, the others to the right."""
    widths = [max(len(line[i]) for line in (heads, *rows)) for i in range(len(heads))]
    console.print(title, style="bold", markup=False)
    for line in (heads, *rows):
        first, *others = (
            cell.rjust(w) if i else cell.ljust(w) for i, (cell, w) in enumerate(zip(line, widths, strict=True))
        )
        console.print("  ".join([first, *others]).rstrip(), soft_wrap=True, markup=False)


def print_list(console: Console, columns: Sequence[str], rows: Sequence[Mapping[str, object]]) -> None:
    """Aligned columns under their names, never broken: a terminal wraps them, `cut` and `grep` can read them."""
    counts = [name in ("trainable", "stored") for name in columns]
    cells = [list(columns), *([_cell(row[c], n) for c, n in zip(columns, counts, strict=True)] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    for line in cells:
        aligned = zip(line, widths, counts, strict=True)
        text = "  ".join(cell.rjust(width) if count else cell.ljust(width) for cell, width, count in aligned)
        console.print(text.rstrip(), soft_wrap=True, markup=False)


def _cell(value: object, count: bool) -> str:
    return "-" if value is None else f"{value:,}" if count else str(value)


def print_scores(console: Console, found: dict[str, Any]) -> None:
    """Print a run's scores beside the floors."""
    metrics = list(found["metrics"])
    table = Table(box=None, pad_edge=False)
    for column in ("", *metrics):
        table.add_column(column, justify="right" if column else "left")
    floors = {"commonest answer": found["floors"]["majority"], "no prompt": found["floors"]["zero_shot"]}
    for what, metrics_of in (*floors.items(), (found["name"], found["metrics"])):
        table.add_row(what, *(percent(metrics_of[metric]) for metric in metrics))
    console.print(table)
    counted = ", ".join(f"{found[what]} {what}" for what in ("truncated", "empty", "unparsable") if found[what])
    console.print(f"{found['n']} examples" + (f"; {counted}" if counted else ""))


def print_run(console: Console, found: dict[str, Any]) -> None:
    """Print what a run is: method, sizes, scores, nearest words."""
    plain = (
        "name", "kind", "method", "start_from", "backbone", "task", "template", "choices", "length", "placement",
        "positions", "zeroed", "trainable", "stored", "seed", "best", "stopped",
    )  # fmt: skip
    for key in plain:
        value = found[key]
        if value is not None and value != []:
            console.print(f"{key:10} {_plain(value)}", soft_wrap=True, markup=False)
    names = {"majority": "commonest", "zero_shot": "no prompt"}
    for key, scores in found["scores"].items():
        values = "  ".join(f"{metric} {percent(value)}" for metric, value in scores["metrics"].items())
        console.print(f"{names.get(key, key):10} {values}  (n={scores['n']})", soft_wrap=True)
    if found["words"]:
        console.print("\nnearest words of each row (cosine)")
        for row, words in enumerate(found["words"]):
            shown = "  ".join(f"{word['token']!r} {word['cosine']:.2f}" for word in words)
            console.print(f"{row:>4}  {shown}", soft_wrap=True, markup=False)


def print_check(console: Console, report: CheckReport) -> None:
    """Print what train would do, then its problems."""
    for name, value in report.resolved.items():
        console.print(f"{name:10} {_plain(value)}", soft_wrap=True, markup=False, highlight=False)
    for problem in report.problems:
        console.print(f"[bold red]problem[/]  {problem.replace('[', chr(92) + '[')}", soft_wrap=True)
    count = len(report.problems)
    console.print("no problems" if not count else "1 problem" if count == 1 else f"{count} problems")


def _plain(value: object) -> str:
    """Write a value in words: {"rows": {"dev": 1}, "k": None} as `rows (dev 1)`; what is unset is left out."""
    if isinstance(value, dict):
        given = {key: inner for key, inner in value.items() if inner is not None and inner != {}}
        return ", ".join(
            f"{key} ({_plain(v)})" if isinstance(v, dict) else f"{key} {_plain(v)}" for key, v in given.items()
        )
    if isinstance(value, list | tuple):
        return " | ".join(map(_plain, value))
    if isinstance(value, float):
        return f"{value:g}"
    return repr(value)[1:-1] if isinstance(value, str) else f"{value:,}" if type(value) is int else str(value)


def print_task(console: Console, found: dict[str, Any]) -> None:
    """Print what a task is: rows, balance, one example."""
    lines = [f"{found['name']} (version {found['version']}), metrics {', '.join(found['metrics'])}"]
    for split, rows in found["rows"].items():
        balance = ", ".join(f"{target} {count}" for target, count in found["balance"][split].items())
        note = found["notes"].get(split)
        lines.append(f"{split:6} {rows:7,} rows  {balance or 'free text'}{f'  ({note})' if note else ''}")
    lines += ["", found["example"]["source"], f"=> {' | '.join(found['example']['answers'])}"]
    for line in lines:
        console.print(line, soft_wrap=True, markup=False)
