"""Scores as pure functions of predictions and references. All lie in [-1, 1] or [0, 1]; none touches a file.

Every metric takes n predictions and n tuples of references (the answers that count as right; metrics of
classes and numbers read the first). A prediction of "" means that no answer could be read.
"""

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from decimal import Decimal
from functools import partial

import numpy as np
from numpy.typing import NDArray

from softprompt.errors import BadInput, UnknownName

References = Sequence[tuple[str, ...]]
Metric = Callable[[Sequence[str], References], float]


def accuracy(predictions: Sequence[str], references: References) -> float:
    """Share of predictions that equal a reference."""
    _check(predictions, references)
    return float(np.mean([p in golds for p, golds in zip(predictions, references, strict=True)]))


def macro_f1(predictions: Sequence[str], references: References) -> float:
    """Mean F1 of the classes that occur, each class counting the same; an unread answer is no class."""
    _check(predictions, references)
    golds = [answers[0] for answers in references]
    scores = []
    for label in sorted({*golds, *predictions} - {""}):
        hits = sum(p == g == label for p, g in zip(predictions, golds, strict=True))
        said, true = sum(p == label for p in predictions), sum(g == label for g in golds)
        scores.append(2 * hits / (said + true))
    return float(np.mean(scores)) if scores else 0.0


def matthews(predictions: Sequence[str], references: References) -> float:
    """Matthews correlation, for any number of classes (Gorodkin 2004); 0 where it is not defined."""
    _check(predictions, references)
    golds = [answers[0] for answers in references]
    labels = sorted({*golds, *predictions})
    said = np.array([[p == label for label in labels] for p in predictions], dtype=float)
    true = np.array([[g == label for label in labels] for g in golds], dtype=float)
    return _cosine(said - said.mean(0), true - true.mean(0))


def pearson(predictions: Sequence[str], references: References) -> float:
    """Linear correlation of numbers; an answer that is no number counts as 0; 0 where it is not defined."""
    _check(predictions, references)
    return _correlation(_numbers(predictions), _numbers([golds[0] for golds in references]))


def spearman(predictions: Sequence[str], references: References) -> float:
    """Correlation of ranks, ties sharing their mean rank; read as `pearson` reads."""
    _check(predictions, references)
    return _correlation(_ranks(_numbers(predictions)), _ranks(_numbers([golds[0] for golds in references])))


def exact_match(predictions: Sequence[str], references: References) -> float:
    """Share of predictions equal to a reference after SQuAD's normalisation (Rajpurkar et al. 2016).

    As in SQuAD 1.1's script, which MRQA and ReCoRD took over, "the" equals "a": nothing is left of either. An
    answer that was not given ("") is wrong.
    """
    _check(predictions, references)
    return float(np.mean([_equal(p, golds) for p, golds in zip(predictions, references, strict=True)]))


def token_f1(predictions: Sequence[str], references: References) -> float:
    """Mean over examples of the best word-overlap F1 with a reference, after SQuAD's normalisation.

    As in SQuAD 1.1's script, 0 where no word is shared, be it that neither has one left.
    """
    _check(predictions, references)
    return float(
        np.mean([max(_overlap(p, g) for g in golds) for p, golds in zip(predictions, references, strict=True)])
    )


def numeric(predictions: Sequence[str], references: References) -> float:
    """Share of predictions that are a number: what `pearson` and `spearman` could read."""
    _check(predictions, references)
    return float(np.mean([_number(p) is not None for p in predictions]))


def number_match(predictions: Sequence[str], references: References) -> float:
    """Share of predictions whose last number is that of a reference (GSM8K, Cobbe et al. 2021)."""
    _check(predictions, references)
    return float(np.mean([_same_number(p, golds) for p, golds in zip(predictions, references, strict=True)]))


def class_f1(predictions: Sequence[str], references: References, label: str) -> float:
    """F1 of the class `label` against the rest, by the name "f1(label)"; MultiRC's F1a with the class of the right.

    An unread answer is wrong either way, as in T5's code (Raffel et al. 2020): a miss where the class is true,
    else a false alarm.
    """
    _check(predictions, references)
    golds = [answers[0] for answers in references]
    hits = sum(p == g == label for p, g in zip(predictions, golds, strict=True))
    said = sum(p == label or (p == "" and g != label) for p, g in zip(predictions, golds, strict=True))
    true = sum(g == label for g in golds)
    return 2 * hits / (said + true) if said + true else 0.0


def question_em(predictions: Sequence[str], references: References, groups: Sequence[str] | None = None) -> float:
    """Share of groups (questions) all of whose predictions are right: MultiRC's EM (Khashabi et al. 2018).

    An example whose group is "", or any without `groups`, is its own.
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
    metric.__name__: metric
    for metric in (
        accuracy, macro_f1, matthews, pearson, spearman, numeric, exact_match, token_f1, number_match, question_em
    )
}  # fmt: skip
MEANS = {"accuracy", "exact_match", "token_f1", "number_match", "numeric"}
"""Metrics that are the mean of their values for single examples."""
_CLASS_F1 = re.compile(r"f1\((.+)\)", re.DOTALL)


def get_metric(name: str) -> Metric:
    """A metric by name; "f1(yes)" is `class_f1` of the class yes. Raises UnknownName."""
    if named := _CLASS_F1.fullmatch(name):
        return partial(class_f1, label=named[1])
    if name not in METRICS:
        raise UnknownName("metric", name, [*METRICS, "f1(CLASS)"])
    return METRICS[name]


def measure(
    names: Sequence[str], predictions: Sequence[str], references: References, groups: Sequence[str] | None = None
) -> dict[str, float]:
    """Scores by name; `groups` says which predictions are counted together, for the metric that does so."""
    return {
        name: question_em(predictions, references, groups)
        if name == question_em.__name__
        else get_metric(name)(predictions, references)
        for name in names
    }


def final_number(text: str) -> str:
    """The last number of a text, without the commas of thousands; "" when there is none."""
    found = _LAST_NUMBER.findall(text.replace("\N{MINUS SIGN}", "-"))
    return found[-1].replace(",", "").replace("$", "") if found else ""


def _check(predictions: Sequence[str], references: References) -> None:
    if len(predictions) != len(references) or not predictions:
        raise BadInput(
            f"{len(predictions)} predictions for {len(references)} references: expected equally many, not 0."
        )
    if not all(references):
        raise BadInput("A reference without any answer: every example needs at least one.")


# A minus sign behind a digit, a letter or a bracket subtracts: "7-3" ends in 3.
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
    if np.ptp(x) == 0 or np.ptp(y) == 0:  # asked before the mean is taken off, whose rounding leaves a remainder
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
    """Lower case, no punctuation, no articles, single blanks: the SQuAD evaluation script's rule."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def _equal(prediction: str, golds: Sequence[str]) -> bool:
    return prediction != "" and any(_plain(prediction) == _plain(gold) for gold in golds)


def _overlap(prediction: str, gold: str) -> float:
    said, true = _plain(prediction).split(), _plain(gold).split()
    common = sum((Counter(said) & Counter(true)).values())
    return 2 * common / (len(said) + len(true)) if common else 0.0


def percent(value: float) -> str:
    return f"{100 * value:.1f}"
