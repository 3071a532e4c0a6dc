"""The settings of a search: all combinations of a grid, or random draws from lists and ranges.

    --grid FIELD=V1,V2      values, each as in --set; or a JSON list, for values that hold commas
    --range FIELD=LOW..HIGH a range to draw from, whole numbers where both ends are; with :log, even in the logarithm
    --random N              N draws instead of all combinations

Bergstra & Bengio 2012 (https://jmlr.org/papers/v13/bergstra12a.html) say why draws beat grids where few fields matter.
"""

import itertools
import json
import math
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from softprompt.errors import BadInput
from softprompt.training.parsing import parse_settings

TRIES = 100
"""Draws without a new setting after which all settings count as found."""


@dataclass(frozen=True)
class Range:
    """Values from `low` to `high`, both included."""

    low: float
    high: float
    log: bool = False
    whole: bool = False

    def draw(self, generator: random.Random) -> float:
        """Draw a value; one that is not whole has three significant digits, so that a setting can be typed again."""
        low, high = (math.log(end) if self.log else end for end in (self.low, self.high))
        if self.whole and not self.log:
            return generator.randint(int(self.low), int(self.high))
        value = generator.uniform(low, high)
        value = min(max(math.exp(value) if self.log else value, self.low), self.high)
        return round(value) if self.whole else float(f"{value:.3g}")


def parse_grid(texts: Iterable[str]) -> dict[str, list[object]]:
    """Read FIELD=V1,V2 as lists of values. Raises BadInput."""
    found: dict[str, list[object]] = {}
    for word in texts:
        name, equals, text = word.partition("=")
        if not equals or not name or not text:
            raise BadInput(f"--grid {word}: expected FIELD=V1,V2, for instance rates.prompt=0.1,0.3.")
        values = _parse_values(text)
        if name in found:
            raise BadInput(f"--grid {name} is given twice; give all its values at once: {name}=V1,V2.")
        if len({json.dumps(value) for value in values}) != len(values):
            raise BadInput(f"--grid {word}: a value is there twice.")
        found[name] = values
    return found


def _parse_values(text: str) -> list[object]:
    if text.startswith("["):
        try:
            return list(json.loads(text))
        except json.JSONDecodeError as error:
            raise BadInput(f"--grid ...={text}: begins as a JSON list and is not one ({error.msg}).") from None
    return [next(iter(parse_settings([f"x={part}"]).values())) for part in text.split(",") if part]


def parse_ranges(texts: Iterable[str]) -> dict[str, Range]:
    """Read FIELD=LOW..HIGH, with or without :log, as ranges. Raises BadInput."""
    found = {}
    for word in texts:
        name, equals, text = word.partition("=")
        text, colon, scale = text.partition(":")
        ends = text.split("..")
        try:
            low, high = (float(end) for end in ends)
        except ValueError:
            low, high = math.nan, math.nan
        if not equals or not name or not low < high or (colon and scale != "log") or math.isinf(high - low):
            raise BadInput(
                f"--range {word}: expected FIELD=LOW..HIGH or FIELD=LOW..HIGH:log (rates.prompt=0.01..1:log)."
            )
        if scale and low <= 0:
            raise BadInput(f"--range {word}: the logarithm needs a range above 0.")
        found[name] = Range(low, high, bool(scale), all(_is_whole(end) for end in ends))
    return found


def _is_whole(text: str) -> bool:
    return text.strip().lstrip("+-").isdecimal()


def list_settings(
    grid: Mapping[str, Sequence[object]], ranges: Mapping[str, Range], draws: int | None, seed: int = 0
) -> list[dict[str, object]]:
    """List different settings: every combination or, with `draws`, so many drawn. More draws begin as fewer do.

    Raises BadInput for names that are in both, for ranges without draws and where there are not so many settings.
    """
    both = set(grid) & set(ranges)
    if both:
        raise BadInput(f"{min(both)} is given with --grid and with --range; give one of them.")
    empty = [name for name, values in grid.items() if not values]
    if empty:
        raise BadInput(f"--grid {empty[0]} has no value; give one or more.")
    if draws is None:
        if ranges:
            raise BadInput(f"--range {min(ranges)} is to be drawn from: say how many settings, --random N.")
        return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    generator = random.Random(seed)
    found: dict[str, dict[str, object]] = {}
    for _ in range(draws):
        for _ in range(TRIES):
            drawn: dict[str, object] = {name: generator.choice(values) for name, values in grid.items()}
            drawn |= {name: between.draw(generator) for name, between in ranges.items()}
            if json.dumps(drawn) not in found:
                found[json.dumps(drawn)] = drawn
                break
        else:
            raise BadInput(
                f"--random {draws}: after {len(found)} different settings nothing new is drawn; ask for fewer or widen "
                "--grid and --range."
            )
    return list(found.values())
