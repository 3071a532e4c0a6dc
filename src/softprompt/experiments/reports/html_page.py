"""report.html: a comparison as one page without dependencies. Inline SVG, no script, light and dark."""

import statistics
from collections.abc import Callable, Sequence
from html import escape

from softprompt.evaluation.floors import FLOORS
from softprompt.experiments.reports.comparison_tables import (
    BESIDE,
    HEADS,
    OVERALL,
    endpoint_rows,
    overall_rows,
    task_rows,
)
from softprompt.experiments.reports.svg_plots import (
    Curve,
    Point,
    color,
    interval,
    learning_curves,
    near,
    score_against,
)
from softprompt.experiments.tables import ComparisonTable, MethodRow, TaskComparison
from softprompt.tasks.metrics import percent

STYLE = """
:root { color-scheme: light dark;
  --ground: #ffffff; --sheet: #f6f7f9; --ink: #1c2330; --quiet: #667085; --rule: #dfe3ea;
  --better: #1a7f4b; --worse: #c2362b;
  --c0: #3366cc; --c1: #dc6b18; --c2: #1a9563; --c3: #c2377e; --c4: #7b52c7; --c5: #0f95ad; --c6: #b08900;
  --c7: #d0473f; --c8: #5d6b82; --c9: #5f8f1f; }
@media (prefers-color-scheme: dark) { :root {
  --ground: #12161d; --sheet: #1a2029; --ink: #e7ebf2; --quiet: #98a3b5; --rule: #313a48;
  --better: #4fca8b; --worse: #ff8a7f;
  --c0: #7aa5ff; --c1: #ffa45c; --c2: #4fd09b; --c3: #ff8cc3; --c4: #b899ff; --c5: #52d0e6; --c6: #e6c14a;
  --c7: #ff8a80; --c8: #a9b6cb; --c9: #a8d65c; } }
body { margin: 0 auto; max-width: 1180px; padding: 2rem 1.25rem 4rem; background: var(--ground); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 1.6rem; margin: 0 0 .3rem; } h2 { font-size: 1.25rem; margin: 2.5rem 0 .2rem; }
h3 { font-size: .95rem; margin: 0 0 .4rem; font-weight: 600; }
p, li { max-width: 60rem; } .quiet { color: var(--quiet); margin: 0 0 .8rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .38rem .6rem; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--rule); }
th { color: var(--quiet); font-weight: 500; font-size: .85rem; } th:first-child, td:first-child { text-align: left; }
tr.floor td { color: var(--quiet); } td .dot { margin-right: .5rem; }
.dot { display: inline-block; width: .7rem; height: .7rem; border-radius: 50%; }
tbody th { text-align: left; font-weight: normal; color: var(--ink); font-size: inherit; }
td.tie { color: var(--quiet); } td.better { color: var(--better); } td.worse { color: var(--worse); }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 460px), 1fr)); gap: 1rem;
  margin-top: 1.2rem; }
figure:first-child { grid-column: 1 / -1; }
figure { margin: 0; padding: 1rem; background: var(--sheet); border-radius: 10px; overflow-x: auto; }
figcaption { color: var(--quiet); font-size: .85rem; margin-top: .3rem; }
.legend { display: flex; flex-wrap: wrap; gap: .15rem 1rem; padding: 0; margin: .5rem 0 0; list-style: none;
  font-size: .85rem; }
.legend .dot { margin-right: .35rem; }
svg.plot { width: 100%; height: auto; display: block; }
svg text { fill: var(--ink); font-size: 12px; } svg .tick, svg .note, svg .label { fill: var(--quiet); }
svg .note { text-anchor: end; font-size: 11px; }
svg .grid { stroke: var(--rule); } svg .axis { stroke: var(--quiet); } svg .leader { stroke: var(--quiet);
  stroke-width: .7; }
svg .floor { stroke: var(--quiet); stroke-dasharray: 4 4; }
svg .line { fill: none; stroke-width: 2; stroke-linejoin: round; } svg .band { opacity: .13; }
svg.interval { vertical-align: middle; } svg.interval .zero { stroke: var(--quiet); stroke-dasharray: 2 2; }
svg.interval .reach { stroke: var(--quiet); stroke-width: 2; } svg.interval circle { fill: var(--quiet); }
svg.interval.better .reach { stroke: var(--better); } svg.interval.better circle { fill: var(--better); }
svg.interval.worse .reach { stroke: var(--worse); } svg.interval.worse circle { fill: var(--worse); }
details { margin-top: 1rem; } summary { cursor: pointer; color: var(--quiet); }
"""


def as_page(table: ComparisonTable) -> str:
    """Render report.html."""
    notes = "".join(f"<li>{escape(note)}</li>" for note in table.notes)
    versions = ", ".join(f"{name} {version}" for name, version in table.versions.items())
    sections = _overall(table) + "".join(_section(part) for part in table.tasks)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(table.title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f"<h1>{escape(table.title)}</h1>\n<ul>{notes}</ul>\n{sections}\n"
        f'<p class="quiet">{escape(versions)}</p>\n</body>\n</html>\n'
    )


def _section(part: TaskComparison) -> str:
    plots = [
        _figure(
            "Learning curves", learning_curves(_curves(part.rows), f"dev {part.metric}"),
            "Mean over seeds on the dev examples that choose the checkpoint; the band is one standard deviation to "
            "each side.", _legend(part.rows),
        ),
        _scatter(part, "Score against parameters", "trained values", lambda row: row.trainable, log=True),
    ]  # fmt: skip
    if all(row.costs for row in part.rows):
        plots.append(
            _scatter(
                part, "Score against time", "minutes of training, alone", _minutes,
                about="Minutes of all training steps of one run, timed for each method alone. ",
            )
        )  # fmt: skip
    return (
        f'<h2>{escape(part.task)}</h2>\n<p class="quiet">{escape(part.metric)} on {part.test_examples:,} test '
        f"examples; baseline {escape(part.baseline)}</p>\n{_table(part)}\n{_beside(part)}\n{_tried(part)}\n"
        f'<div class="plots">{"".join(plots)}</div>\n'
    )


def _minutes(row: MethodRow) -> float:
    assert row.costs is not None
    return row.costs.minutes


def _table(part: TaskComparison) -> str:
    heads = "".join(f"<th>{escape(head)}</th>" for head in (*HEADS[:3], "", *HEADS[3:]))
    rows = task_rows(part)
    floors = len(rows) - len(part.rows)
    lines = [_line([escape(row[0]), row[1], row[2], "", *row[3:]], "floor") for row in rows[:floors]]
    differences = [row.difference for row in part.rows if row.difference]
    reach = max([1e-9, *(abs(end) for one in differences for end in (one.low, one.high))])
    for i, (text, row) in enumerate(zip(rows[floors:], part.rows, strict=True)):
        one = row.difference
        drawn = "" if one is None else interval(one.low, one.mean, one.high, reach, one.verdict)
        name = f'<span class="dot" style="background:{color(i)}"></span>{escape(text[0])}'
        lines.append(_line([name, text[1], text[2], drawn, *text[3:]], "", text[3]))
    return f'<div class="scroll"><table><thead><tr>{heads}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'


def _overall(table: ComparisonTable) -> str:
    """Render the means over tasks."""
    if not table.overall:
        return ""
    heads, lines = _named_rows(OVERALL, overall_rows(table))
    return (
        f"<h2>Mean over {len(table.tasks)} tasks, less {escape(table.tasks[0].baseline)}</h2>\n"
        f'<div class="scroll"><table><thead><tr>{heads}</tr></thead><tbody>{lines}</tbody></table></div>\n'
    )


def _beside(part: TaskComparison) -> str:
    """Render a task's endpoints, folded away."""
    rows = endpoint_rows(part)
    if not rows:
        return ""
    heads, lines = _named_rows(BESIDE, rows)
    return (
        "<details><summary>Score, loss on test and speed of learning</summary>"
        f'<div class="scroll"><table><thead><tr>{heads}</tr></thead><tbody>{lines}</tbody></table></div></details>'
    )


def _named_rows(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> tuple[str, str]:
    """Render heads and rows of text, whose first two cells are names."""
    lines = []
    for row in rows:
        names, values = "".join(f"<th>{escape(cell)}</th>" for cell in row[:2]), row[2:]
        lines.append(f"<tr>{names}{''.join(f'<td>{escape(cell)}</td>' for cell in values)}</tr>")
    return "".join(f"<th>{head}</th>" for head in heads), "".join(lines)


def _line(cells: Sequence[str], kind: str, verdict: str = "") -> str:
    """Render a table row of cells that are HTML already; the fifth is the verdict."""
    made = "".join(
        f'<td class="{verdict}">{cell}</td>' if i == 4 else f"<td>{cell}</td>" for i, cell in enumerate(cells)
    )
    return f'<tr class="{kind}">{made}</tr>'


def _tried(part: TaskComparison) -> str:
    """Render the settings that each method tried, folded away."""
    if not all(row.tried for row in part.rows):
        return ""
    lines = []
    for row in part.rows:
        for one in row.tried or ():
            rates = ", ".join(f"{group} {rate:.3g}" for group, rate in one.rates.items())
            chosen = "chosen" if one.factor == row.factor else ""
            cells = [escape(row.label), f"x{one.factor:g}", escape(rates), f"{100 * one.dev:.1f}",
                     chosen, escape(one.stopped or "")]  # fmt: skip
            lines.append(f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>")
    heads = "".join(f"<th>{head}</th>" for head in ("", "rates", "learning rates", "dev", "", "stopped"))
    return (
        "<details><summary>Settings that were tried</summary>"
        f'<div class="scroll"><table><thead><tr>{heads}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'
        "</details>"
    )


def _figure(title: str, plot: str, caption: str, legend: str = "") -> str:
    return f"<figure><h3>{escape(title)}</h3>{plot}{legend}<figcaption>{escape(caption)}</figcaption></figure>"


def _legend(rows: Sequence[MethodRow]) -> str:
    items = "".join(
        f'<li><span class="dot" style="background:{color(i)}"></span>{escape(row.label)}</li>'
        for i, row in enumerate(rows)
    )
    return f'<ul class="legend">{items}</ul>'


def _curves(rows: Sequence[MethodRow]) -> list[Curve]:
    """Return mean and standard deviation over seeds at every step that all seeds have evaluated."""
    curves = []
    for row in rows:
        runs = [dict(run) for run in row.curves]
        points = []
        for step in sorted(set.intersection(*(set(run) for run in runs))):
            values = [run[step] for run in runs]
            mean, spread = statistics.mean(values), statistics.stdev(values) if len(values) > 1 else 0.0
            points.append((step, mean, mean - spread, mean + spread))
        curves.append(Curve(row.label, points))
    return curves


def _scatter(
    part: TaskComparison,
    title: str,
    x_label: str,
    x: Callable[[MethodRow], float],
    *,
    log: bool = False,
    about: str = "",
) -> str:
    points = [Point(row.label, x(row), row.mean, row.deviation or 0.0) for row in part.rows]
    floors = [(FLOORS[name], value) for name, value in part.floors.items()]
    shown = near(points, floors)
    hidden = ", ".join(f"{name} {percent(value)}" for name, value in floors if (name, value) not in shown)
    caption = f"{about}Mean over seeds, one standard deviation to each side."
    caption += " Dashed: what a method must beat." if shown else ""
    caption += f" Outside of the plot: {hidden}." if hidden else ""
    return _figure(title, score_against(points, x_label, f"test {part.metric}", shown, log=log), caption)
