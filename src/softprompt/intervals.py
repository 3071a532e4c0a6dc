"""How sure a score is: bootstrap intervals over seeds and test examples."""

from collections.abc import Sequence

import numpy as np

from softprompt.metrics import References, measure

RESAMPLES = 1000


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
    """Percentile interval of the mean over runs of the mean of `metrics` (Efron & Tibshirani 1993, chapters 8 and 13).

    `predictions` holds each run's answers to the same n examples. Both levels are drawn with replacement: the
    runs, then the examples, those of one group together (the answers to one question of MultiRC). With few
    runs the part that comes from the runs is underestimated; three is few.
    """
    units = _units(len(references), groups)
    generator = np.random.default_rng(seed)
    means = []
    for _ in range(resamples):
        runs = generator.integers(len(predictions), size=len(predictions))
        drawn = [units[i] for i in generator.integers(len(units), size=len(units))]
        chosen = np.concatenate(drawn)
        golds = [references[i] for i in chosen]
        # A group that is drawn twice counts twice: each draw has a name of its own.
        own = [str(place) for place, unit in enumerate(drawn) for _ in unit]
        scores = {r: measure(metrics, [predictions[r][i] for i in chosen], golds, own) for r in set(runs.tolist())}
        means.append(np.mean([list(scores[r].values()) for r in runs.tolist()]))
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _units(count: int, groups: Sequence[str] | None) -> list[np.ndarray]:
    """Indices that are drawn together."""
    if groups is None or not any(groups):
        return [np.array([i]) for i in range(count)]
    found: dict[str | int, list[int]] = {}
    for i, group in enumerate(groups):
        found.setdefault(group or i, []).append(i)  # without a group an example is its own
    return [np.array(indices) for indices in found.values()]
