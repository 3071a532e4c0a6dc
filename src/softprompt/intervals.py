"""How sure a score is: bootstrap intervals over seeds and test examples."""

from collections.abc import Sequence

import numpy as np

from softprompt.metrics import MEANS, References, get_metric, measure

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
    values = [_values(metrics, answers, references) for answers in predictions]
    generator = np.random.default_rng(seed)
    means = []
    for _ in range(resamples):
        runs = generator.integers(len(predictions), size=len(predictions)).tolist()
        drawn = generator.integers(len(units), size=len(units))
        if len(units) == len(references):  # each example is its own
            chosen, own = drawn, None
        else:
            chosen = np.concatenate([units[i] for i in drawn.tolist()])
            # A group that is drawn twice counts twice: each draw has a name of its own.
            own = [str(place) for place, i in enumerate(drawn.tolist()) for _ in units[i]]
        scores = {r: _score(metrics, values[r], predictions[r], references, chosen, own) for r in set(runs)}
        means.append(np.mean([scores[r] for r in runs]))
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _values(metrics: Sequence[str], predictions: Sequence[str], references: References) -> dict[str, np.ndarray]:
    """The value of each example under each metric that is their mean: looked up, not measured a thousand times."""
    pairs = list(zip(predictions, references, strict=True))
    return {name: np.array([get_metric(name)([p], [golds]) for p, golds in pairs]) for name in metrics if name in MEANS}


def _score(
    metrics: Sequence[str],
    values: dict[str, np.ndarray],
    predictions: Sequence[str],
    references: References,
    chosen: np.ndarray,
    groups: Sequence[str] | None,
) -> float:
    """The mean of `metrics` over the examples that were chosen."""
    rest = [name for name in metrics if name not in values]
    found = [float(values[name][chosen].mean()) for name in values]
    if rest:
        places = chosen.tolist()
        found += measure(rest, [predictions[i] for i in places], [references[i] for i in places], groups).values()
    return sum(found) / len(found)


def _units(count: int, groups: Sequence[str] | None) -> list[np.ndarray]:
    """Indices that are drawn together."""
    if groups is None or not any(groups):
        return [np.array([i]) for i in range(count)]
    found: dict[str | int, list[int]] = {}
    for i, group in enumerate(groups):
        found.setdefault(group or i, []).append(i)  # without a group an example is its own
    return [np.array(indices) for indices in found.values()]
