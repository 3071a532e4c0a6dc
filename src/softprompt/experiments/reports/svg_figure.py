"""scores.svg: a comparison as one picture for a README or a paper. Light and dark, no script."""

from collections.abc import Sequence
from html import escape

from softprompt.evaluation.floors import FLOORS
from softprompt.experiments.reports.svg_plots import Axis, score_range
from softprompt.experiments.tables import ComparisonTable, MethodRow, TaskComparison
from softprompt.tasks.metrics import percent

ROW, PANEL, GAP = 22, 300, 26
TOP, BOTTOM = 50, 66
LETTER = 6.7
"""Approximate width of a label's letter in pixels."""
STYLE = """
svg { --ground: #ffffff; --ink: #1c2330; --quiet: #667085; --rule: #e3e7ed; --tie: #8791a3; --better: #1a7f4b;
  --worse: #c2362b; --baseline: #3366cc; font: 12px system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
@media (prefers-color-scheme: dark) { svg { --ground: #12161d; --ink: #e7ebf2; --quiet: #98a3b5; --rule: #2b3340;
  --tie: #98a3b5; --better: #4fca8b; --worse: #ff8a7f; --baseline: #7aa5ff; } }
.ground { fill: var(--ground); } text { fill: var(--ink); } .quiet { fill: var(--quiet); font-size: 11px; }
.title { font-weight: 600; font-size: 13px; } .rule { stroke: var(--rule); }
.base { stroke: var(--baseline); stroke-dasharray: 4 3; }
.reach { stroke-width: 2.5; stroke-linecap: round; } .seed { opacity: .4; }
.tie { fill: var(--tie); stroke: var(--tie); } .better { fill: var(--better); stroke: var(--better); }
.worse { fill: var(--worse); stroke: var(--worse); } .baseline { fill: var(--baseline); stroke: var(--baseline); }
"""


def as_picture(table: ComparisonTable) -> str:
    """Render scores.svg: a panel for each task, a row for each method.

    A row shows the method's seeds, their mean, and the interval of its difference to the baseline.
    """
    parts = table.tasks
    labels = list(dict.fromkeys(row.label for part in parts for row in part.rows))
    left = LETTER * max(len(label) for label in labels) + 16
    width, height = left + len(parts) * (PANEL + GAP), TOP + ROW * len(labels) + BOTTOM
    made = [f'<rect class="ground" width="{width:.0f}" height="{height}"/>']
    for i, label in enumerate(labels):
        made.append(f'<text x="{left - 10:.0f}" y="{_middle(i) + 4}" text-anchor="end">{escape(label)}</text>')
    for i, part in enumerate(parts):
        made += _panel(part, labels, left + i * (PANEL + GAP))
    for i, line in enumerate(_key(parts[0])):
        made.append(f'<text class="quiet" x="12" y="{height - 26 + 15 * i}">{escape(line)}</text>')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height}" width="{width:.0f}" '
        f'height="{height}" role="img" aria-label="{escape(table.title)}"><style>{STYLE}</style>'
        f"{''.join(made)}</svg>\n"
    )


def _panel(part: TaskComparison, labels: Sequence[str], begin: float) -> list[str]:
    rows = {row.label: row for row in part.rows}
    base = rows[part.baseline].mean
    differences = [row.difference for row in rows.values() if row.difference]
    ends = [base + end for one in differences for end in (one.low, one.high)]
    low, high = score_range([*ends, *(score for row in rows.values() for score in row.test)])
    x = Axis(low, high, begin, begin + PANEL)
    floor = TOP + ROW * len(labels)
    floors = ", ".join(f"{FLOORS[name]} {percent(value)}" for name, value in part.floors.items())
    made = [
        f'<text class="title" x="{begin:.0f}" y="20">{escape(part.task)}, {escape(part.metric)}</text>',
        f'<text class="quiet" x="{begin:.0f}" y="37">{escape(floors)}</text>',
    ]
    for tick in x.ticks():
        made.append(f'<line class="rule" x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="{TOP}" y2="{floor}"/>')
        made.append(
            f'<text class="quiet" text-anchor="middle" x="{x(tick):.1f}" y="{floor + 16}">{100 * tick:g}</text>'
        )
    made.append(f'<line class="base" x1="{x(base):.1f}" x2="{x(base):.1f}" y1="{TOP}" y2="{floor}"/>')
    for i, label in enumerate(labels):
        if label in rows:
            made += _row(rows[label], base, x, _middle(i))
    return made


def _row(row: MethodRow, base: float, x: Axis, y: float) -> list[str]:
    difference = row.difference
    kind = difference.verdict if difference else "baseline"
    made = []
    if difference:
        ends = (x(base + difference.low), x(base + difference.high))
        made.append(f'<line class="reach {kind}" x1="{ends[0]:.1f}" x2="{ends[1]:.1f}" y1="{y}" y2="{y}"/>')
    made += [f'<circle class="seed {kind}" cx="{x(score):.1f}" cy="{y}" r="3"/>' for score in row.test]
    title = f"{row.label}: {percent(row.mean)}{f', {kind}' if difference else ''}"
    made.append(f'<circle class="{kind}" cx="{x(row.mean):.1f}" cy="{y}" r="5"><title>{escape(title)}</title></circle>')
    return made


def _middle(row: int) -> float:
    return TOP + ROW * row + ROW // 2


def _key(part: TaskComparison) -> list[str]:
    count = max(len(row.test) for row in part.rows)
    return [
        f"Test: mean, and each of {count} seed{'' if count == 1 else 's'} (pale).",
        f"Bar: 95 % interval of the difference to {part.baseline} (dashed); grey: a tie.",
    ]
