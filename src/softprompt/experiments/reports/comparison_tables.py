"""A comparison as text: rows for a terminal, CSV, Markdown, LaTeX."""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from softprompt.tasks.metrics import percent

FLOORS = {"majority": "commonest answer", "zero_shot": "no prompt (zero-shot)"}
HEADS = ("", "test", "difference", "", "trained", "stored", "tokens/s", "peak MiB", "minutes")
LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
}  # fmt: skip
COLUMNS = (
    "task", "label", "method", "metric", "mean", "deviation", "seeds", "tried", "steps", "difference", "low", "high",
    "verdict", "trainable", "stored", "tokens_per_second", "peak_memory_mib", "minutes",
)  # fmt: skip


def rows_of(part: Mapping[str, Any]) -> list[list[str]]:
    """One task's rows under HEADS: floors first, then the entries as they are; scores in percent."""
    blank = [""] * (len(HEADS) - 2)
    rows = [[title, percent(part["floors"][name]), *blank] for name, title in FLOORS.items() if name in part["floors"]]
    for row in part["rows"]:
        spread = "" if row["deviation"] is None else f" ± {percent(row['deviation'])}"
        difference = row["difference"]
        rows.append([
            row["label"],
            percent(row["mean"]) + spread,
            "baseline" if difference is None else
            f"{100 * difference['mean']:+.1f} [{100 * difference['low']:+.1f}, {100 * difference['high']:+.1f}]",
            "" if difference is None else difference["verdict"],
            f"{row['trainable']:,}",
            f"{row['stored']:,}",
            *_costs(row),
        ])  # fmt: skip
    return rows


def _costs(row: Mapping[str, Any]) -> list[str]:
    costs = row.get("costs")
    if costs is None:
        return ["-"] * 3
    peak = costs["peak_memory_mib"]
    return [
        f"{costs['tokens_per_second']:,.0f}",
        "-" if peak is None else f"{peak:,.0f}",
        f"{costs['minutes']:.1f}",
    ]


def as_csv(found: Mapping[str, Any]) -> str:
    """A row for each method on each task, numbers as they are (scores between 0 and 1)."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for part in found["tasks"]:
        for name, value in part["floors"].items():
            writer.writerow({"task": part["task"], "label": name, "metric": part["metric"], "mean": value})
        for row in part["rows"]:
            difference = row["difference"] or {}
            costs = row.get("costs") or {}
            writer.writerow({
                "task": part["task"], "label": row["label"], "method": row["method"], "metric": part["metric"],
                "mean": row["mean"], "deviation": row["deviation"], "seeds": len(row["test"]),
                "tried": None if row.get("tried") is None else len(row["tried"]), "steps": row["steps"],
                "difference": difference.get("mean"), "low": difference.get("low"), "high": difference.get("high"),
                "verdict": difference.get("verdict"), "trainable": row["trainable"], "stored": row["stored"],
                "tokens_per_second": costs.get("tokens_per_second"), "peak_memory_mib": costs.get("peak_memory_mib"),
                "minutes": costs.get("minutes"),
            })  # fmt: skip
    return text.getvalue()


def as_markdown(found: Mapping[str, Any]) -> str:
    lines = [f"# {found['title']}", "", *(f"- {note}" for note in found["notes"]), ""]
    for part in found["tasks"]:
        lines += [
            f"## {part['task']}: {part['metric']}",
            "",
            f"{_examples(part)}; baseline `{part['baseline']}`.",
            "",
            f"| {' | '.join(HEADS)} |",
            f"|---|{'---:|' * (len(HEADS) - 1)}",
            *(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows_of(part)),
            "",
        ]
    return "\n".join(lines)


def as_latex(found: Mapping[str, Any]) -> str:
    """A table a task, for the package booktabs."""
    lines = [f"% {found['title']}"]
    lines += [f"% {note}" for note in found["notes"]]
    for part in found["tasks"]:
        heads = " & ".join(map(escape_latex, HEADS))
        lines += [
            r"\begin{table}",
            rf"\caption{{{escape_latex(part['task'])}: {escape_latex(part['metric'])} on test, in percent. "
            rf"{escape_latex(_examples(part))}.}}",
            rf"\begin{{tabular}}{{l{'r' * (len(HEADS) - 1)}}}",
            r"\toprule",
            rf"{heads} \\",
            r"\midrule",
            *(rf"{' & '.join(map(escape_latex, row))} \\" for row in rows_of(part)),
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
        ]
    return "\n".join(lines) + "\n"


def escape_latex(text: str) -> str:
    """Text as LaTeX sets it; ± and minus signs in mathematics."""
    escaped = "".join(LATEX.get(letter, letter) for letter in text)
    return escaped.replace("±", r"$\pm$")


def _examples(part: Mapping[str, Any]) -> str:
    return f"{part['test_examples']:,} test examples"


def print_rows(part: Mapping[str, Any]) -> tuple[str, Sequence[str], list[list[str]]]:
    """What terminal.print_table takes."""
    return f"{part['task']}: {part['metric']}, {_examples(part)}", HEADS, rows_of(part)
