"""Compute how sure a score is: bootstrap intervals over seeds and test examples."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from softprompt.tasks.metrics import References, get_metric, measure

RESAMPLES = 1000
"""How often examples and runs are drawn."""
DETECTABLE = 2.8
"""Standard errors of the smallest difference that is found with a power of 80 % at a level of 95 %: 1.96 + 0.84."""

Indices = NDArray[np.int64]
Numbers = NDArray[np.float64]


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


class Drawn(NamedTuple):
    """How an entry's mean differs from the baseline's, and how it does in each resample."""

    mean: float
    resampled: Numbers

    def difference(self, level: float = 0.95) -> Difference:
        """Return the mean with its percentile interval."""
        low, high = np.quantile(self.resampled, [(1 - level) / 2, (1 + level) / 2])
        return Difference(self.mean, float(low), float(high))

    def detectable(self) -> float:
        """Return the smallest true difference that is found in four of five such experiments, at a level of 95 %."""
        return DETECTABLE * float(self.resampled.std())


def draw_scores(
    metrics: Sequence[str],
    predictions: Mapping[str, Sequence[Sequence[str]]],
    baseline: str,
    references: References,
    groups: Sequence[str] | None = None,
    *,
    paired: bool = True,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Drawn]:
    """Draw how each entry's mean score differs from the baseline's: a paired bootstrap.

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
        resamples: How often is drawn.
        seed: Of the draws.
    """
    units = _units(len(references), groups)
    values = {name: [_values(metrics, run, references) for run in runs] for name, runs in predictions.items()}
    whole_groups = None if len(units) == len(references) else groups

    def one(name: str, run: int, chosen: Indices, own: Sequence[str] | None) -> float:
        return _score(metrics, values[name][run], predictions[name][run], references, chosen, own)

    counts = {name: len(runs) for name, runs in predictions.items()}
    return _draw(one, counts, baseline, units, whole_groups, paired=paired, resamples=resamples, seed=seed)


def draw_values(
    values: Mapping[str, Sequence[Sequence[float]]],
    baseline: str,
    groups: Sequence[str] | None = None,
    *,
    paired: bool = True,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Drawn]:
    """Draw as `draw_scores` where each run has a number for each of n items: a loss; or one number, for a whole run.

    Args:
        values: Each entry's runs, and each run's n numbers.
        baseline: The name of the entry that the others are compared with.
        groups: (n,), items that are drawn together; "": its own.
        paired: Draw the same runs of both entries, where both have equally many.
        resamples: How often is drawn.
        seed: Of the draws.
    """
    arrays = {name: np.asarray(runs, dtype=np.float64) for name, runs in values.items()}
    units = _units(arrays[baseline].shape[1], groups)

    def one(name: str, run: int, chosen: Indices, own: Sequence[str] | None) -> float:
        return float(arrays[name][run, chosen].mean())

    counts = {name: len(runs) for name, runs in arrays.items()}
    return _draw(one, counts, baseline, units, None, paired=paired, resamples=resamples, seed=seed)


def mean_over_tasks(tasks: Sequence[Drawn], *, seed: int = 0) -> Drawn:
    """Average differences over tasks, which are drawn with replacement as well: of T tasks T - 1.

    Each drawn task brings another resample of its runs and examples, so that a task drawn twice is not one number
    twice. What is within tasks is thus counted a second time, in how much they differ: the interval is a little too
    wide rather than too narrow (Davison & Hinkley 1997, section 3.8). One task is taken as it is.
    """
    generator = np.random.default_rng(seed)
    each = np.stack([task.resampled for task in tasks])  # (T, resamples)
    count = max(len(tasks) - 1, 1)
    drawn = generator.integers(len(tasks), size=(each.shape[1], count))
    resample = generator.integers(each.shape[1], size=drawn.shape)
    resampled = each[0] if len(tasks) == 1 else each[drawn, resample].mean(1)
    return Drawn(float(np.mean([task.mean for task in tasks])), resampled)


def _draw(
    score: Callable[[str, int, Indices, Sequence[str] | None], float],
    counts: Mapping[str, int],
    baseline: str,
    units: list[Indices],
    groups: Sequence[str] | None,
    *,
    paired: bool,
    resamples: int,
    seed: int,
) -> dict[str, Drawn]:
    """Draw runs and units; `score` computes an entry's run on some items, and `counts` are its runs."""
    count = sum(map(len, units))
    generator = np.random.default_rng(seed)
    found: dict[str, list[float]] = {name: [] for name in counts}

    def mean(name: str, runs: Sequence[int], chosen: Indices, own: Sequence[str] | None) -> float:
        scores = {run: score(name, run, chosen, own) for run in set(runs)}
        return float(np.mean([scores[run] for run in runs]))

    def draw(runs: int) -> list[int]:
        return [0] if runs == 1 else generator.integers(runs, size=runs - 1).tolist()

    for _ in range(resamples):
        chosen, own = _drawn(units, count, generator)
        common = draw(counts[baseline])
        theirs = mean(baseline, common, chosen, own)
        for name, runs in counts.items():
            alike = name == baseline or (paired and runs == counts[baseline])
            found[name].append(mean(name, common if alike else draw(runs), chosen, own) - theirs)
    everything = np.arange(count)
    whole = {name: mean(name, range(runs), everything, groups) for name, runs in counts.items()}
    return {name: Drawn(whole[name] - whole[baseline], np.array(found[name])) for name in counts}


def _drawn(units: list[Indices], count: int, generator: np.random.Generator) -> tuple[Indices, list[str] | None]:
    """Draw examples with replacement; also returns the groups they are scored in (None: each is its own)."""
    drawn = generator.integers(len(units), size=len(units))
    if len(units) == count:  # each example is its own
        return drawn, None
    # A group that is drawn twice counts twice: each draw has a name of its own.
    names = [str(place) for place, i in enumerate(drawn.tolist()) for _ in units[i]]
    return np.concatenate([units[i] for i in drawn.tolist()]), names


def _values(metrics: Sequence[str], predictions: Sequence[str], references: References) -> dict[str, Numbers]:
    """Measure each example under each metric that is a mean over examples: once, not in every resample."""
    pairs = list(zip(predictions, references, strict=True))
    means = [metric for metric in map(get_metric, metrics) if metric.is_mean]
    return {metric.name: np.array([metric([p], [golds]) for p, golds in pairs]) for metric in means}


def _score(
    metrics: Sequence[str],
    values: dict[str, Numbers],
    predictions: Sequence[str],
    references: References,
    chosen: Indices,
    groups: Sequence[str] | None,
) -> float:
    """Compute the mean of `metrics` over the examples that were chosen."""
    rest = [name for name in metrics if name not in values]
    found = [float(values[name][chosen].mean()) for name in values]
    if rest:
        places = chosen.tolist()
        found += measure(rest, [predictions[i] for i in places], [references[i] for i in places], groups).values()
    return sum(found) / len(found)


def _units(count: int, groups: Sequence[str] | None) -> list[Indices]:
    """List the indices that are drawn together."""
    if groups is None or not any(groups):
        return [np.array([i]) for i in range(count)]
    found: dict[str | int, list[int]] = {}
    for i, group in enumerate(groups):
        found.setdefault(group or i, []).append(i)  # without a group an example is its own
    return [np.array(indices) for indices in found.values()]
