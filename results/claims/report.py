"""Write README.md and the pictures of this folder from its JSON files: `make results`.

A study that has no file yet has no section. Verdicts follow PLAN.md's rules; verdicts.json says them, with the reason.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from softprompt.evaluation.floors import FLOORS
from softprompt.experiments.reports.comparison_tables import OVERALL, overall_rows
from softprompt.experiments.tables import ComparisonTable, TaskComparison
from softprompt.tasks.metrics import percent

HERE = Path(__file__).parent
INK, QUIET = "#1f2937", "#94a3b8"
COLORS = ("#c2571a", "#3b5b8c", "#4d8a57", "#8a4d7c")
TITLES = {
    "e7": "E7: DePT saves time and memory, and more with the model's size",
    "e4": "E4: a softmax over SuperPos' weights hurts; how many embeddings are needed",
    "e1": "E1: SuperPos > Residual > prompt tuning",
    "e5": "E5: DePT > prompt tuning with equally many trained values",
}
VERDICTS = json.loads((HERE / "verdicts.json").read_text(encoding="utf-8"))
STAND_IN = (
    "Backbone: flan-t5-small-title, which descends from Flan and has seen SST-2, CoLA, MRPC and their like with "
    "instructions; pros_cons, mr and support are sets that Flan never saw."
)


def rows_of(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """Write a table of Markdown."""
    lines = [f"| {' | '.join(heads)} |", f"|---|{'---:|' * (len(heads) - 1)}"]
    return [*lines, *(f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in row)} |" for row in rows), ""]


# E7


def cost_section(found: dict[str, Any]) -> list[str]:
    rows = found["rows"]
    sizes = list(dict.fromkeys(row["size"] for row in rows))
    lines = [
        "Shares of prompt tuning with 100 rows: time / memory. T5 v1.1 shapes with random weights, float32, "
        f"{found['batch']} examples, {found['threads']} threads, {found['processor']}. Memory is that of the whole "
        "process, model included. `python bench/bench_cost.py --output results/claims/e7-cost.json`.",
        "",
        "![Time against the model's size](e7.png)",
        "",
    ]
    for kind in ("training", "inference"):
        table = []
        for tokens in dict.fromkeys(row["tokens"] for row in rows):
            for rank, own in enumerate(arms(rows, kind, tokens, sizes)):
                if rank:
                    cells = [f"{one['time_ratio']:.2f} / {one['memory_ratio']:.2f}" for one in own]
                    table.append([own[0]["arm"].partition(",")[0], tokens, f"{own[0]['arithmetic']:.2f}", *cells])
        heads = (f"{kind}", "source tokens", "(l + s) / (100 + s)", *(f"{size}" for size in sizes))
        lines += rows_of(heads, table)
    return lines


def arms(rows: Sequence[dict[str, Any]], kind: str, tokens: int, sizes: Sequence[str]) -> list[list[dict[str, Any]]]:
    """Return for each arm its rows by size."""
    alike = [one for one in rows if (one["kind"], one["tokens"]) == (kind, tokens)]
    return [list(own) for own in zip(*([one for one in alike if one["size"] == s] for s in sizes), strict=True)]


def draw_cost(found: dict[str, Any], path: Path) -> None:
    rows = found["rows"]
    sizes = list(dict.fromkeys(row["size"] for row in rows))
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    for place, kind in enumerate(("training", "inference")):
        axes = figure.add_subplot(1, 2, place + 1)
        ends: list[tuple[float, str, str]] = []
        for color, tokens in zip(COLORS, sorted({row["tokens"] for row in rows}), strict=True):
            own = next(one for one in arms(rows, kind, tokens, sizes) if one[0]["arm"].startswith("dept 40"))
            x = [one["parameters"] for one in own]
            axes.plot(x, [one["time_ratio"] for one in own], marker="o", color=color)
            axes.plot(x, [own[0]["arithmetic"]] * len(x), color=color, linestyle=":", linewidth=1)
            ends.append((own[-1]["time_ratio"], f"{tokens} tokens", color))
        lowest = 0.0
        for value, text, color in sorted(ends):  # one above the other, where lines end together
            lowest = max(value, lowest + 0.045)
            axes.annotate(text, (x[-1] * 1.12, lowest), va="center", color=color, fontsize=8)
        axes.axhline(1, color=QUIET, linewidth=0.8)
        axes.axhline(0.8, color=QUIET, linewidth=0.8, linestyle="--")
        axes.set_xscale("log")
        axes.set_xticks(x, [f"{one['size']}\n{one['parameters'] / 1e6:.0f} M" for one in own])
        axes.minorticks_off()
        axes.set_xlim(x[0] * 0.8, x[-1] * 2.4)
        axes.set_ylim(0, 1.1)
        axes.set_title(f"{kind}: time of DePT 40 / prompt tuning 100", loc="left", fontsize=9, color=INK)
        axes.text(x[0], 0.03, "dotted: tokens read, (40 + s) / (100 + s)\ndashed: 20 % less", fontsize=8, color=INK)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)


# Comparisons


def comparison_section(name: str, table: ComparisonTable) -> list[str]:
    lines = [
        f"{STAND_IN} {table.steps} steps of {table.batch} examples; learning rates tried on dev: {table.budget}; "
        f"seeds: {table.seeds}. `python results/claims/run.py {name}`.",
        "",
    ]
    if table.overall:
        lines += [f"![Differences to {table.baseline}]({name}.png)", "", *rows_of(OVERALL, overall_rows(table))]
    labels = [row.label for row in table.tasks[0].rows]
    floors = [floor for floor in FLOORS if all(floor in task.floors for task in table.tasks)]
    heads = ("test", *(f"{task.task} ({task.metric})" for task in table.tasks))
    shown = [[FLOORS[floor], *(percent(task.floors[floor]) for task in table.tasks)] for floor in floors]
    shown += [[label, *(_score(task, label) for task in table.tasks)] for label in labels]
    return [*lines, *rows_of(heads, shown)]


def _score(task: TaskComparison, label: str) -> str:
    row = task.row(label)
    spread = "" if row.deviation is None else f" ± {percent(row.deviation)}"
    return f"{percent(row.mean)}{spread} (rate x{row.factor:g})"


def draw_overall(table: ComparisonTable, path: Path) -> None:
    assert table.overall is not None
    height = 1.1 + 0.38 * len(table.overall[0].rows)
    figure = Figure(figsize=(3.2 * len(table.overall), height), layout="constrained")
    FigureCanvasAgg(figure)
    for place, endpoint in enumerate(table.overall):
        axes = figure.add_subplot(1, len(table.overall), place + 1)
        for y, row in enumerate(reversed(endpoint.rows)):
            one = row.difference
            color = {"better": COLORS[2], "worse": COLORS[0]}.get(one.verdict, QUIET)
            axes.plot([one.low, one.high], [y, y], color=color, linewidth=2)
            axes.plot([one.mean], [y], marker="o", color=color)
        axes.axvline(0, color=QUIET, linewidth=0.8, linestyle="--")
        axes.set_yticks(range(len(endpoint.rows)), [row.label for row in reversed(endpoint.rows)] if not place else [])
        axes.set_ylim(-0.6, len(endpoint.rows) - 0.4)
        axes.set_title(endpoint.title, loc="left", fontsize=8, color=INK)
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)


def main() -> None:
    lines = [
        "# What the papers claim, tested",
        "",
        "Made by `make results` from the JSON files beside it; designs, endpoints and what would refute a claim were",
        "registered in [PLAN.md](PLAN.md) before. Green: better than the baseline, orange: worse, grey: not decided.",
        "",
    ]
    for name, title in TITLES.items():
        path = HERE / ("e7-cost.json" if name == "e7" else f"{name}.json")
        if not path.is_file():
            continue
        lines += [f"## {title}", "", f"**{VERDICTS[name]['verdict']}** {VERDICTS[name]['because']}", ""]
        if name == "e7":
            found = json.loads(path.read_text(encoding="utf-8"))
            lines += cost_section(found)
            draw_cost(found, HERE / "e7.png")
        else:
            table = ComparisonTable.read(path)
            lines += comparison_section(name, table)
            if table.overall:
                draw_overall(table, HERE / f"{name}.png")
    (HERE / "README.md").write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
