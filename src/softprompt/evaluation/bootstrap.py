"""Compute how sure a score is: bootstrap intervals over seeds and test examples."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from softprompt.tasks.metrics import References, get_metric, measure

RESAMPLES = 1000
"""How often examples and runs are drawn."""


def bootstrap(
    metrics: Sequence[str],
    predictions: Sequence[Sequence[str]],
    references: References,
    groups: Sequence[str] | None = None,
    *,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[float, float]:
    """Compute a percentile interval of the mean score of some runs (Efron & Tibshirani 1993, chapters 8 and 13).

    Both levels are drawn with replacement: the runs, then the examples. With few runs the part of the variance that
    comes from the runs is underestimated; three is few.

    Args:
        metrics: A run's score is their mean.
        predictions: Each run's answers to the same n examples.
        references: (n,), the right answers of each example.
        groups: (n,), examples that are drawn together (the answers to one question of MultiRC); "": its own.
        level: Of confidence.
        resamples: How often is drawn.
        seed: Of the draws.

    Returns:
        The low and the high end.
    """
    units = _units(len(references), groups)
    values = [_values(metrics, answers, references) for answers in predictions]
    generator = np.random.default_rng(seed)
    means = []
    for _ in range(resamples):
        runs = generator.integers(len(predictions), size=len(predictions)).tolist()
        chosen, own = _drawn(units, len(references), generator)
        scores = {r: _score(metrics, values[r], predictions[r], references, chosen, own) for r in set(runs)}
        means.append(np.mean([scores[r] for r in runs]))
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


class Difference(NamedTuple):
    """The mean score of some runs less that of the baseline's runs, with its interval."""

    mean: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """Better or worse than the baseline, or tie where the interval contains 0."""
        return "better" if self.low > 0 else "worse" if self.high < 0 else "tie"


def differences(
    metrics: Sequence[str],
    predictions: Mapping[str, Sequence[Sequence[str]]],
    baseline: str,
    references: References,
    groups: Sequence[str] | None = None,
    *,
    paired: bool = True,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Difference]:
    """Compute how each entry's mean score differs from the baseline's: percentile intervals of a paired bootstrap.

    A resample draws the examples once for all entries, and runs. Of m runs m - 1 are drawn, with replacement, so that
    the part of the variance which comes from few runs is not too small by (m - 1) / m (Rao & Wu 1988, JASA 83:231); a
    single run is taken as it is, and then the interval says nothing about seeds.

    Args:
        metrics: A run's score is their mean.
        predictions: Each entry's runs, and each run's answers to the same n examples.
        baseline: The name of the entry that the others are compared with.
        references: (n,), the right answers of each example.
        groups: (n,), examples that are drawn together; "": its own.
        paired: Draw the same runs of both entries (run i of each has the same seed and saw the same data), where both
            have equally many.
        level: Of confidence.
        resamples: How often is drawn.
        seed: Of the draws.
    """
    units = _units(len(references), groups)
    values = {name: [_values(metrics, run, references) for run in runs] for name, runs in predictions.items()}
    everything = np.arange(len(references))
    generator = np.random.default_rng(seed)
    found: dict[str, list[float]] = {name: [] for name in predictions}

    def mean(name: str, runs: Sequence[int], chosen: np.ndarray, own: Sequence[str] | None) -> float:
        scores = {r: _score(metrics, values[name][r], predictions[name][r], references, chosen, own) for r in set(runs)}
        return float(np.mean([scores[r] for r in runs]))

    def draw(count: int) -> list[int]:
        return [0] if count == 1 else generator.integers(count, size=count - 1).tolist()

    for _ in range(resamples):
        chosen, own = _drawn(units, len(references), generator)
        common = draw(len(predictions[baseline]))
        theirs = mean(baseline, common, chosen, own)
        for name, runs in predictions.items():
            alike = name == baseline or (paired and len(runs) == len(predictions[baseline]))
            found[name].append(mean(name, common if alike else draw(len(runs)), chosen, own) - theirs)
    whole_groups = None if len(units) == len(references) else groups
    whole = {name: mean(name, range(len(runs)), everything, whole_groups) for name, runs in predictions.items()}
    bounds = {name: np.quantile(each, [(1 - level) / 2, (1 + level) / 2]) for name, each in found.items()}
    return {name: Difference(whole[name] - whole[baseline], *map(float, bounds[name])) for name in predictions}


def _drawn(units: list[np.ndarray], count: int, generator: np.random.Generator) -> tuple[np.ndarray, list[str] | None]:
    """Draw examples with replacement; also returns the groups they are scored in (None: each is its own)."""
    drawn = generator.integers(len(units), size=len(units))
    if len(units) == count:  # each example is its own
        return drawn, None
    # A group that is drawn twice counts twice: each draw has a name of its own.
    names = [str(place) for place, i in enumerate(drawn.tolist()) for _ in units[i]]
    return np.concatenate([units[i] for i in drawn.tolist()]), names


def _values(metrics: Sequence[str], predictions: Sequence[str], references: References) -> dict[str, np.ndarray]:
    """Measure each example under each metric that is a mean over examples: once, not in every resample."""
    pairs = list(zip(predictions, references, strict=True))
    means = [metric for metric in map(get_metric, metrics) if metric.is_mean]
    return {metric.name: np.array([metric([p], [golds]) for p, golds in pairs]) for metric in means}


def _score(
    metrics: Sequence[str],
    values: dict[str, np.ndarray],
    predictions: Sequence[str],
    references: References,
    chosen: np.ndarray,
    groups: Sequence[str] | None,
) -> float:
    """Compute the mean of `metrics` over the examples that were chosen."""
    rest = [name for name in metrics if name not in values]
    found = [float(values[name][chosen].mean()) for name in values]
    if rest:
        places = chosen.tolist()
        found += measure(rest, [predictions[i] for i in places], [references[i] for i in places], groups).values()
    return sum(found) / len(found)


def _units(count: int, groups: Sequence[str] | None) -> list[np.ndarray]:
    """List the indices that are drawn together."""
    if groups is None or not any(groups):
        return [np.array([i]) for i in range(count)]
    found: dict[str | int, list[int]] = {}
    for i, group in enumerate(groups):
        found.setdefault(group or i, []).append(i)  # without a group an example is its own
    return [np.array(indices) for indices in found.values()]
