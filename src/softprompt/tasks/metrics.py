"""Metrics: pure functions of predictions and references, by name. All lie in [-1, 1] or [0, 1]; none touches a file.

Every metric takes n predictions and n tuples of references (the answers that count as right; metrics of
classes and numbers read the first). A prediction of "" means that no answer could be read.

A metric of another package is one function and `register_metric(Metric("mine", function))`.
"""

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import partial

import numpy as np
from numpy.typing import NDArray

from softprompt.errors import BadInput, UnknownName

References = Sequence[tuple[str, ...]]


@dataclass(frozen=True)
class Metric:
    """A metric as it is declared: its name, its function and what it is computed from."""

    name: str
    function: Callable[..., float]
    """Takes predictions and references; and groups, where `needs_groups`."""
    needs_groups: bool = False
    """Whether the function also takes the group of each example, to score the examples of a group together."""
    is_mean: bool = False
    """Whether it is the mean of its values for single examples, which bootstrapping then computes only once."""

    def __call__(
        self, predictions: Sequence[str], references: References, groups: Sequence[str] | None = None
    ) -> float:
        """Score `predictions`; `groups` are used only where the metric needs them."""
        if self.needs_groups:
            return self.function(predictions, references, groups)
        return self.function(predictions, references)


def accuracy(predictions: Sequence[str], references: References) -> float:
    """Return the share of predictions that equal a reference."""
    _check(predictions, references)
    return float(np.mean([p in golds for p, golds in zip(predictions, references, strict=True)]))


def macro_f1(predictions: Sequence[str], references: References) -> float:
    """Return the mean F1 of the classes that occur, unweighted; an answer that was not read is not a class."""
    _check(predictions, references)
    golds = [answers[0] for answers in references]
    scores = []
    for label in sorted({*golds, *predictions} - {""}):
        hits = sum(p == g == label for p, g in zip(predictions, golds, strict=True))
        said, true = sum(p == label for p in predictions), sum(g == label for g in golds)
        scores.append(2 * hits / (said + true))
    return float(np.mean(scores)) if scores else 0.0


def matthews(predictions: Sequence[str], references: References) -> float:
    """Return the Matthews correlation, for any number of classes (Gorodkin 2004); 0 where it is not defined."""
    _check(predictions, references)
    golds = [answers[0] for answers in references]
    labels = sorted({*golds, *predictions})
    said = np.array([[p == label for label in labels] for p in predictions], dtype=float)
    true = np.array([[g == label for label in labels] for g in golds], dtype=float)
    return _cosine(said - said.mean(0), true - true.mean(0))


def pearson(predictions: Sequence[str], references: References) -> float:
    """Return the linear correlation of numbers; what is not a number counts as 0; 0 where it is not defined."""
    _check(predictions, references)
    return _correlation(_numbers(predictions), _numbers([golds[0] for golds in references]))


def spearman(predictions: Sequence[str], references: References) -> float:
    """Return the correlation of ranks, ties sharing their mean rank; answers are read as by `pearson`."""
    _check(predictions, references)
    return _correlation(_ranks(_numbers(predictions)), _ranks(_numbers([golds[0] for golds in references])))


def exact_match(predictions: Sequence[str], references: References) -> float:
    """Return the share of predictions equal to a reference after SQuAD's normalization (Rajpurkar et al. 2016).

    SQuAD 1.1's script, which MRQA and ReCoRD use too, removes articles, so "the" equals "a": nothing is left of
    either. An empty answer ("") is wrong.
    """
    _check(predictions, references)
    return float(np.mean([_equal(p, golds) for p, golds in zip(predictions, references, strict=True)]))


def token_f1(predictions: Sequence[str], references: References) -> float:
    """Return the mean over examples of the best word-overlap F1 with a reference, after SQuAD's normalization.

    It is 0 where no word is shared, even when neither text has a word left, as in SQuAD 1.1's script.
    """
    _check(predictions, references)
    return float(
        np.mean([max(_overlap(p, g) for g in golds) for p, golds in zip(predictions, references, strict=True)])
    )


def numeric(predictions: Sequence[str], references: References) -> float:
    """Return the share of predictions that are a number: those that `pearson` and `spearman` can read."""
    _check(predictions, references)
    return float(np.mean([_number(p) is not None for p in predictions]))


def number_match(predictions: Sequence[str], references: References) -> float:
    """Return the share of predictions whose last number is that of a reference (GSM8K, Cobbe et al. 2021)."""
    _check(predictions, references)
    return float(np.mean([_same_number(p, golds) for p, golds in zip(predictions, references, strict=True)]))


def class_f1(predictions: Sequence[str], references: References, label: str) -> float:
    """Return the F1 of the class `label` against the rest, named "f1(label)"; for right answers, MultiRC's F1a.

    An answer that was not read is always wrong, as in T5's code (Raffel et al. 2020): a false negative where the
    class is true, else a false positive.
    """
    _check(predictions, references)
    golds = [answers[0] for answers in references]
    hits = sum(p == g == label for p, g in zip(predictions, golds, strict=True))
    said = sum(p == label or (p == "" and g != label) for p, g in zip(predictions, golds, strict=True))
    true = sum(g == label for g in golds)
    return 2 * hits / (said + true) if said + true else 0.0


def question_em(predictions: Sequence[str], references: References, groups: Sequence[str] | None = None) -> float:
    """Return the share of groups (questions) whose predictions are all right: MultiRC's EM (Khashabi et al. 2018).

    An example whose group is "" is a group by itself; without `groups` every example is.
    """
    _check(predictions, references)
    if groups is not None and len(groups) != len(predictions):
        raise BadInput(f"{len(groups)} groups for {len(predictions)} predictions: expected equally many.")
    right: dict[str | int, bool] = {}
    for i, (prediction, golds) in enumerate(zip(predictions, references, strict=True)):
        group = (groups[i] if groups else "") or i
        right[group] = right.get(group, True) and prediction in golds
    return float(np.mean(list(right.values())))


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("accuracy", accuracy, is_mean=True),
        Metric("macro_f1", macro_f1),
        Metric("matthews", matthews),
        Metric("pearson", pearson),
        Metric("spearman", spearman),
        Metric("numeric", numeric, is_mean=True),
        Metric("exact_match", exact_match, is_mean=True),
        Metric("token_f1", token_f1, is_mean=True),
        Metric("number_match", number_match, is_mean=True),
        Metric("question_em", question_em, needs_groups=True),
    )
}
PLUGINS = "softprompt.metrics"
"""Entry points of other packages that register metrics."""
_CLASS_F1 = re.compile(r"f1\((.+)\)", re.DOTALL)


def register_metric(metric: Metric) -> Metric:
    """Add a metric under its name. Raises BadInput when the name is taken."""
    if metric.name in METRICS or _CLASS_F1.fullmatch(metric.name):
        raise BadInput(f"There is already a metric named {metric.name!r}; give yours another name.")
    METRICS[metric.name] = metric
    return metric


def get_metric(name: str) -> Metric:
    """Return a metric by name; "f1(yes)" is `class_f1` of the class yes. Raises UnknownName."""
    if named := _CLASS_F1.fullmatch(name):
        return Metric(name, partial(class_f1, label=named[1]))
    if name not in METRICS:
        from softprompt.runtime.plugins import load_plugins

        load_plugins(PLUGINS)
    if name not in METRICS:
        raise UnknownName("metric", name, [*METRICS, "f1(CLASS)"])
    return METRICS[name]


def measure(
    names: Sequence[str], predictions: Sequence[str], references: References, groups: Sequence[str] | None = None
) -> dict[str, float]:
    """Score `predictions` with each metric of `names`; `groups` says which of them are scored together."""
    return {name: get_metric(name)(predictions, references, groups) for name in names}


def final_number(text: str) -> str:
    """Return the last number of a text, without thousands separators; "" when there is none."""
    found = _LAST_NUMBER.findall(text.replace("\N{MINUS SIGN}", "-"))
    return found[-1].replace(",", "").replace("$", "") if found else ""


def _check(predictions: Sequence[str], references: References) -> None:
    if len(predictions) != len(references) or not predictions:
        raise BadInput(
            f"{len(predictions)} predictions for {len(references)} references: expected equally many, not 0."
        )
    if not all(references):
        raise BadInput("An example has no reference answer; every example needs at least one.")


# A minus sign after a digit, a letter or a bracket subtracts: "7-3" ends in 3.
_LAST_NUMBER = re.compile(r"(?:(?<![\w)])-)?\$?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|(?:(?<![\w)])-)?\.\d+")


def _same_number(prediction: str, golds: Sequence[str]) -> bool:
    said = final_number(prediction)
    numbers = [final_number(gold) for gold in golds]
    return said != "" and any(number != "" and Decimal(said) == Decimal(number) for number in numbers)


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if np.isfinite(value) else None


def _numbers(texts: Sequence[str]) -> NDArray[np.float64]:
    return np.array([_number(text) or 0.0 for text in texts])


def _correlation(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    if np.ptp(x) == 0 or np.ptp(y) == 0:  # checked before the mean is subtracted: rounding leaves a remainder
        return 0.0
    x, y = x / np.abs(x).max(), y / np.abs(y).max()  # so that no square overflows
    return _cosine(x - x.mean(), y - y.mean())


def _cosine(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    spread = np.sqrt((x * x).sum() * (y * y).sum())
    return float(np.clip((x * y).sum() / spread, -1, 1)) if spread > 0 else 0.0


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray(((last - counts + 1 + last) / 2)[place], dtype=np.float64)


_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def _plain(text: str) -> str:
    """Normalize as SQuAD's evaluation script: lower case, without punctuation and articles, single spaces."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def _equal(prediction: str, golds: Sequence[str]) -> bool:
    return prediction != "" and any(_plain(prediction) == _plain(gold) for gold in golds)


def _overlap(prediction: str, gold: str) -> float:
    said, true = _plain(prediction).split(), _plain(gold).split()
    common = sum((Counter(said) & Counter(true)).values())
    return 2 * common / (len(said) + len(true)) if common else 0.0


def percent(value: float) -> str:
    """Format a score between 0 and 1 in percent, with one decimal."""
    return f"{100 * value:.1f}"
