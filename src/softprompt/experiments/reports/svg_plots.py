"""Plots as inline SVG: no library, no script. Colors are CSS variables (--c0 ...), so light and dark share a file."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 560, 340
WIDE = 1140
LEFT, RIGHT, TOP, BOTTOM = 52, 16, 14, 44
COLORS = 10
"""Number of colors, --c0 ...; further entries take them again, dashed."""
LABEL = 13
"""Height of a label in pixels."""


@dataclass(frozen=True)
class Curve:
    """A line through points (x, middle, low, high)."""

    label: str
    points: Sequence[tuple[float, float, float, float]]


@dataclass(frozen=True)
class Point:
    """A score with its standard deviation (0: none)."""

    label: str
    x: float
    y: float
    spread: float = 0.0


@dataclass(frozen=True)
class Axis:
    """A scale from values to pixels."""

    low: float
    high: float
    begin: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high, at = (math.log10(v) if self.log else v for v in (self.low, self.high, value))
        return self.begin + (at - low) / (high - low) * (self.end - self.begin)

    def ticks(self) -> list[float]:
        if not self.log:
            return ticks(self.low, self.high)
        first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
        steps = (1,) if last - first > 2 else (1, 3)
        found = [step * 10.0**power for power in range(first, last + 1) for step in steps]
        return [tick for tick in found if self.low <= tick <= self.high]


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Return round numbers from `low` to `high`, about so many."""
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if rough <= power * factor * 1.0000001)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 10) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def learning_curves(curves: Sequence[Curve], y_label: str) -> str:
    """Draw lines with bands against steps; scores between 0 and 1, shown in percent."""
    x = Axis(*_room([p[0] for c in curves for p in c.points], 0.0), LEFT, WIDE - RIGHT)
    y = _score_axis([value for c in curves for p in c.points for value in p[1:]])
    parts = [_frame(x, y, "step", y_label, _plain)]
    for i, curve in enumerate(curves):
        upper = [f"{x(at):.1f},{y(high):.1f}" for at, _, _, high in curve.points]
        lower = [f"{x(at):.1f},{y(low):.1f}" for at, _, low, _ in reversed(curve.points)]
        middle = " ".join(f"{x(at):.1f},{y(value):.1f}" for at, value, _, _ in curve.points)
        parts.append(f'<polygon class="band" style="fill:{color(i)}" points="{" ".join(upper + lower)}"/>')
        dash = ' stroke-dasharray="5 3"' if i >= COLORS else ""
        parts.append(
            f'<polyline class="line" style="stroke:{color(i)}"{dash} points="{middle}"><title>{escape(curve.label)}'
            "</title></polyline>"
        )
        parts += [
            f'<circle style="fill:{color(i)}" cx="{x(at):.1f}" cy="{y(value):.1f}" r="2.5"><title>'
            f"{escape(curve.label)}, step {at:g}: {100 * value:.1f}</title></circle>"
            for at, value, _, _ in curve.points
        ]
    return _svg(parts, f"{y_label} against steps", WIDE)


def score_against(
    points: Sequence[Point], x_label: str, y_label: str, floors: Sequence[tuple[str, float]], *, log: bool = False
) -> str:
    """Draw points with their spread and their names, and the floors as lines.

    Args:
      points: Scores between 0 and 1 against x.
      x_label: Name of the horizontal axis.
      y_label: Name of the vertical axis.
      floors: Names and scores.
      log: Whether the horizontal axis is logarithmic.
    """
    low, high = _room([point.x for point in points], 0.12, log=log)
    x = Axis(low, high, LEFT, WIDTH - RIGHT, log)
    y = _score_axis([*_reached(points), *(value for _, value in floors)])
    parts = [_frame(x, y, x_label, y_label, _short)]
    for name, value in floors:
        place = f'y1="{y(value):.1f}" y2="{y(value):.1f}"'
        parts.append(f'<line class="floor" x1="{LEFT}" x2="{WIDTH - RIGHT}" {place}/>')
        parts.append(f'<text class="note" x="{WIDTH - RIGHT - 4}" y="{y(value) - 4:.1f}">{escape(name)}</text>')
    for i, point in enumerate(points):
        at, up, down = x(point.x), y(point.y + point.spread), y(point.y - point.spread)
        parts.append(
            f'<line class="line" style="stroke:{color(i)}" x1="{at:.1f}" x2="{at:.1f}" y1="{up:.1f}" y2="{down:.1f}"/>'
        )
        parts.append(
            f'<circle style="fill:{color(i)}" cx="{at:.1f}" cy="{y(point.y):.1f}" r="5"><title>{escape(point.label)}: '
            f"{100 * point.y:.1f}, {escape(x_label)} {_plain(point.x)}</title></circle>"
        )
    parts += _labels(points, x, y)
    return _svg(parts, f"{y_label} against {x_label}")


def interval(low: float, mean: float, high: float, reach: float, verdict: str, width: int = 150) -> str:
    """Draw a difference with its interval on a scale from -reach to reach, zero in the middle.

    Args:
      low: Lower end of the interval.
      mean: The difference.
      high: Upper end of the interval.
      reach: End of the scale.
      verdict: better, worse or tie: the CSS class.
      width: In pixels.
    """
    x = Axis(-reach, reach, 4, width - 4)
    title = f"{100 * mean:+.1f}, from {100 * low:+.1f} to {100 * high:+.1f}: {verdict}"
    return (
        f'<svg class="interval {verdict}" viewBox="0 0 {width} 18" width="{width}" height="18" role="img" '
        f'aria-label="{title}"><title>{title}</title>'
        f'<line class="zero" x1="{x(0):.1f}" x2="{x(0):.1f}" y1="0" y2="18"/>'
        f'<line class="reach" x1="{x(low):.1f}" x2="{x(high):.1f}" y1="9" y2="9"/>'
        f'<circle cx="{x(mean):.1f}" cy="9" r="4"/></svg>'
    )


def color(index: int) -> str:
    return f"var(--c{index % COLORS})"


def near(points: Sequence[Point], floors: Sequence[tuple[str, float]]) -> list[tuple[str, float]]:
    """Return the floors that can be shown without making the points' differences small."""
    low, high = min(_reached(points)), max(_reached(points))
    reach = high - low
    return [(name, value) for name, value in floors if low - 1.5 * reach <= value <= high + reach]


def _reached(points: Sequence[Point]) -> list[float]:
    return [value for point in points for value in (point.y - point.spread, point.y + point.spread)]


def score_range(values: Sequence[float]) -> tuple[float, float]:
    """Return the range of an axis that holds `values` with some room on each side."""
    return _room(values, 0.06)


Box = tuple[float, float, float, float]
"""Left, top, right, bottom."""


def _labels(points: Sequence[Point], x: Axis, y: Axis) -> list[str]:
    """Draw names beside their points, on the first side that is free; else further off, with a line."""
    taken: list[Box] = [(x(p.x) - 6, y(p.y) - 6, x(p.x) + 6, y(p.y) + 6) for p in points]
    parts = []
    for point in sorted(points, key=lambda p: -p.y):
        at, level, wide = x(point.x), y(point.y), 6.6 * len(point.label)
        spots = [
            (at + 9, level + 4),
            (at - 9 - wide, level + 4),
            (at - wide / 2, level - 10),
            (at - wide / 2, level + 19),
        ]
        far = [(at + side, level + 4 + drop) for drop in (22, -20, 36, -34, 50, 64, 78) for side in (9, -9 - wide)]
        for place, base in [*spots, *far]:
            box = (place, base - LABEL + 3, place + wide, base + 3)
            if _inside(box) and not any(_meet(box, other) for other in taken):
                break
        taken.append(box)
        if (place, base) in far:
            end = place if place > at else place + wide
            parts.append(f'<line class="leader" x1="{at:.1f}" y1="{level:.1f}" x2="{end:.1f}" y2="{base - 4:.1f}"/>')
        parts.append(f'<text class="name" x="{place:.1f}" y="{base:.1f}">{escape(point.label)}</text>')
    return parts


def _inside(box: Box) -> bool:
    return box[0] >= LEFT + 2 and box[2] <= WIDTH and box[1] >= 0 and box[3] <= HEIGHT - BOTTOM


def _meet(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _frame(x: Axis, y: Axis, x_label: str, y_label: str, format_tick: Callable[[float], str]) -> str:
    """Draw grid, ticks and names of the axes."""
    floor, right = HEIGHT - BOTTOM, x.end
    parts = []
    for tick in y.ticks():
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{right}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>')
        parts.append(f'<text class="tick" text-anchor="end" x="{LEFT - 7}" y="{y(tick) + 4:.1f}">{100 * tick:g}</text>')
    for tick in x.ticks():
        parts.append(f'<line class="grid" x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="{floor}" y2="{floor + 4}"/>')
        parts.append(
            f'<text class="tick" text-anchor="middle" x="{x(tick):.1f}" y="{floor + 17}">{format_tick(tick)}</text>'
        )
    parts.append(f'<line class="axis" x1="{LEFT}" x2="{right}" y1="{floor}" y2="{floor}"/>')
    middle = (LEFT + right) / 2
    parts.append(f'<text class="label" text-anchor="middle" x="{middle}" y="{HEIGHT - 8}">{escape(x_label)}</text>')
    parts.append(
        f'<text class="label" text-anchor="middle" transform="translate(13 {(TOP + floor) / 2}) rotate(-90)">'
        f"{escape(y_label)}</text>"
    )
    return "".join(parts)


def _score_axis(values: Sequence[float]) -> Axis:
    low, high = score_range(values)
    return Axis(low, high, HEIGHT - BOTTOM, TOP)


def _room(values: Sequence[float], share: float, *, log: bool = False) -> tuple[float, float]:
    """Return the range of `values` with `share` of it on each side; never empty."""
    ends = [math.log10(v) if log else v for v in (min(values), max(values))]
    if ends[1] - ends[0] < 1e-9:
        ends = [ends[0] - 0.5, ends[1] + 0.5] if log else [ends[0] - abs(ends[0]) * 0.1 - 0.01, ends[1] * 1.1 + 0.01]
    more = share * (ends[1] - ends[0])
    low, high = ends[0] - more, ends[1] + more
    return (10**low, 10**high) if log else (low, high)


def _plain(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:g}" if value == round(value) else f"{value:.3g}"


def _short(value: float) -> str:
    """Format 1000 as 1k, 1000000 as 1M."""
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"


def _svg(parts: Sequence[str], about: str, width: int = WIDTH) -> str:
    return (
        f'<svg class="plot" style="min-width:{width * 3 // 4}px" viewBox="0 0 {width} {HEIGHT}" role="img" '
        f'aria-label="{escape(about)}">'
        f"{''.join(parts)}</svg>"
    )
