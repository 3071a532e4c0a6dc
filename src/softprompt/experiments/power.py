"""The smallest difference that a comparison can see, said before it is run.

A difference of a method to the baseline varies with the seed, with the test examples that only one of the two answers
rightly, and from task to task. The smallest true difference that four of five such experiments find, at a level of
95 %, is so and so many standard errors of it (Bloom 1995, https://doi.org/10.1177/0193841X9501900504): 2.8 of what
comes from examples, more by Student's t of what comes from few seeds or tasks.
"""

import math
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from softprompt.errors import BadInput
from softprompt.experiments.tables import ComparisonTable, MethodRow


class Variation(NamedTuple):
    """How much a difference of scores varies; all as shares, not in percent."""

    seeds: float = 0.015
    """Standard deviation over seeds, both methods with the same one."""
    tasks: float = 0.02
    """Standard deviation over tasks of what is true on each."""
    examples: float = 0.2
    """Share of the test examples that one of the two alone answers rightly."""


def parse_spread(text: str) -> Variation:
    """Read "1.5,2" or "1.5,2,20": points over seeds and over tasks, percent of examples. Raises BadInput."""
    try:
        values = [float(part) / 100 for part in text.split(",")]
    except ValueError:
        values = []
    if not 2 <= len(values) <= 3 or not all(value >= 0 and math.isfinite(value) for value in values):
        raise BadInput(f"--spread {text!r}: expected points over seeds and over tasks, such as 1.5,2.")
    return Variation(*values)


def pilot_spread(folder: Path) -> Variation:
    """Estimate the spread from a finished comparison. Raises BadArtefact, BadInput for one with a single seed."""
    tasks = ComparisonTable.read(folder).tasks
    paired = [(row, task.row(task.baseline)) for task in tasks for row in task.rows if row.label != task.baseline]
    within = [statistics.variance(_differences(*pair)) for pair in paired if len(_differences(*pair)) > 1]
    if not within:
        raise BadInput(f"--pilot {folder}: it has one seed, so it does not say how much seeds matter; give --spread.")
    labels = {row.label for row, _ in paired}
    means = [[row.mean - base.mean for row, base in paired if row.label == label] for label in labels]
    between = [statistics.variance(each) for each in means if len(each) > 1]
    seeds, known = statistics.mean(within), Variation()
    noise = seeds / len(_differences(*paired[0]))
    tasks_spread = math.sqrt(max(statistics.mean(between) - noise, 0.0)) if between else known.tasks
    return Variation(math.sqrt(seeds), tasks_spread, known.examples)


def _differences(row: MethodRow, base: MethodRow) -> list[float]:
    return [a - b for a, b in zip(row.test, base.test, strict=False)]


def detectable(spread: Variation, seeds: int, examples: int) -> float:
    """Return the smallest difference on a task that can be seen with `seeds` runs and so many test examples."""
    return math.sqrt(_of_seeds(spread, seeds) + _of_examples(spread, examples))


def detectable_mean(spread: Variation, seeds: int, examples: Mapping[str, int]) -> float:
    """Return the smallest difference that can be seen in the mean over tasks, by the test examples of each."""
    within = statistics.mean(_of_seeds(spread, seeds) + _of_examples(spread, count) for count in examples.values())
    between = (_errors(len(examples) - 1) * spread.tasks) ** 2
    return math.sqrt((within + between) / len(examples))


def _of_seeds(spread: Variation, seeds: int) -> float:
    return (_errors(seeds - 1) * spread.seeds) ** 2 / seeds


def _of_examples(spread: Variation, examples: int) -> float:
    return _errors(None) ** 2 * spread.examples / examples


def _errors(freedom: int | None) -> float:
    """Return the standard errors between nothing and what is found four times in five; one run is taken at its word."""
    from scipy.stats import norm, t

    return float(t.ppf(0.975, freedom) + t.ppf(0.8, freedom) if freedom else norm.ppf(0.975) + norm.ppf(0.8))


def describe_power(spread: Variation, seeds: int, examples: Mapping[str, int]) -> str:
    """Write in a sentence what a comparison can see."""
    each = ", ".join(f"{name} {100 * detectable(spread, seeds, count):.1f}" for name, count in examples.items())
    mean = f"; mean over {len(examples)} tasks {100 * detectable_mean(spread, seeds, examples):.1f}"
    return (
        f"Smallest difference that can be seen, in points (power 80 %, level 95 %): {each}"
        f"{mean if len(examples) > 1 else ''}. Taken for it: standard deviations of {100 * spread.seeds:.1f} points "
        f"over seeds and {100 * spread.tasks:.1f} over tasks; {100 * spread.examples:.0f} % of the examples are "
        "answered rightly by one of two alone (--spread, --pilot)."
    )
