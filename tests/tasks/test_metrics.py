"""Scores against scikit-learn and scipy, and against cases worked by hand."""

import re
import string
import warnings
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sklearn_metrics

from softprompt.errors import BadInput, UnknownName
from softprompt.tasks.metrics import (
    METRICS,
    accuracy,
    exact_match,
    final_number,
    get_metric,
    macro_f1,
    matthews,
    measure,
    number_match,
    numeric,
    pearson,
    question_em,
    spearman,
    token_f1,
)
from tests.compare import assert_close

Case = tuple[list[str], list[str]]
"""Predictions and the one reference of each."""
COUNTS = [1, 2, 7, 40]
CLASSES = [2, 3, 6]


def one_each(golds: Sequence[str]) -> list[tuple[str, ...]]:
    return [(gold,) for gold in golds]


def random_labels(seed: int, n: int, classes: int) -> Case:
    generator = np.random.default_rng(seed)
    golds = [f"class {i}" for i in generator.integers(classes, size=n)]
    wrong = generator.random(n) < 0.4
    others = [f"class {i}" for i in generator.integers(classes, size=n)]
    return [b if w else a for a, b, w in zip(golds, others, wrong, strict=True)], golds


def random_numbers(seed: int, n: int, *, ties: bool) -> tuple[list[float], list[float]]:
    generator = np.random.default_rng(seed)
    x = generator.normal(size=n)
    y = x + generator.normal(size=n)
    return (x.round().tolist(), y.round().tolist()) if ties else (x.tolist(), y.tolist())


def by_sklearn(name: str, predictions: Sequence[str], golds: Sequence[str]) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn warns of classes that nobody predicted
        if name == "accuracy":
            return float(sklearn_metrics.accuracy_score(golds, predictions))
        if name == "macro_f1":
            labels = sorted({*golds, *predictions} - {""})
            return float(sklearn_metrics.f1_score(golds, predictions, labels=labels, average="macro", zero_division=0))
        return float(sklearn_metrics.matthews_corrcoef(golds, predictions))


def by_scipy(name: str, x: Sequence[float], y: Sequence[float]) -> float:
    found = (stats.pearsonr if name == "pearson" else stats.spearmanr)(x, y)
    return float(found.statistic)


def scored(name: str, x: Sequence[float], y: Sequence[float]) -> float:
    return get_metric(name)([str(value) for value in x], one_each([str(value) for value in y]))


# Classes


@pytest.mark.parametrize("classes", CLASSES)
@pytest.mark.parametrize("n", COUNTS)
@pytest.mark.parametrize("name", ["accuracy", "macro_f1", "matthews"])
def test_scores_of_classes_are_those_of_scikit_learn(name: str, n: int, classes: int) -> None:
    for seed in range(5):
        predictions, golds = random_labels(seed, n, classes)
        assert_close(METRICS[name](predictions, one_each(golds)), by_sklearn(name, predictions, golds), 1e-12)


@pytest.mark.parametrize(
    ("predictions", "golds"),
    [
        (["a"] * 4, ["a", "b", "c", "a"]),
        (["a", "b", "c", "a"], ["a"] * 4),
        (["a"] * 4, ["a"] * 4),
        (["a"] * 4, ["b"] * 4),
        (["a", "b", "a", "b"], ["c", "c", "d", "d"]),
        (["b", "a"], ["a", "b"]),
    ],
    ids=["one predicted", "one true", "one, always right", "one, always wrong", "none in common", "swapped"],
)
@pytest.mark.parametrize("name", ["accuracy", "macro_f1", "matthews"])
def test_degenerate_scores_of_classes_are_those_of_scikit_learn(
    name: str, predictions: list[str], golds: list[str]
) -> None:
    assert_close(METRICS[name](predictions, one_each(golds)), by_sklearn(name, predictions, golds), 1e-12)


@pytest.mark.parametrize("other", ["accuracy", "matthews"])
def test_the_comparison_would_notice_another_metric_in_the_place_of_macro_f1(other: str) -> None:
    predictions, golds = random_labels(0, 40, 3)
    with pytest.raises(AssertionError, match="largest difference"):
        assert_close(METRICS[other](predictions, one_each(golds)), by_sklearn("macro_f1", predictions, golds), 1e-12)


def test_macro_f1_worked_by_hand() -> None:
    # a: 1 hit of 2 said and 1 true, 2/3; b: 1 hit of 1 said and 2 true, 2/3; c: never said, 0
    assert_close(macro_f1(["a", "a", "b", "b"], one_each(["a", "b", "b", "c"])), (2 / 3 + 1 / 2 + 0) / 3)


def test_an_unread_answer_is_wrong_but_no_class_of_macro_f1() -> None:
    predictions, references = ["a", "", "b", ""], one_each(["a", "a", "b", "b"])
    assert macro_f1(predictions, references) == pytest.approx(2 / 3)  # each class: 1 hit, 1 said, 2 true
    assert macro_f1(predictions, references) == pytest.approx(by_sklearn("macro_f1", predictions, ["a", "a", "b", "b"]))
    assert accuracy(predictions, references) == 0.5


@pytest.mark.parametrize("name", METRICS)
def test_a_model_that_never_gives_an_answer_scores_nothing(name: str) -> None:
    assert METRICS[name](["", "", ""], one_each(["1", "2", "2"])) == 0.0


@pytest.mark.parametrize("name", METRICS)
def test_empty_references_give_a_number_and_no_warning(name: str) -> None:
    assert np.isfinite(METRICS[name](["", ""], one_each(["", ""])))


def test_accuracy_takes_any_reference_and_the_scores_of_classes_the_first() -> None:
    predictions, references = ["b", "a", "a"], [("a", "b"), ("a", "c"), ("a", "a")]
    assert accuracy(predictions, references) == 1.0
    assert macro_f1(predictions, references) == pytest.approx(by_sklearn("macro_f1", predictions, ["a"] * 3))
    assert macro_f1(predictions, references) != pytest.approx(by_sklearn("macro_f1", predictions, ["b", "c", "a"]))


def test_matthews_never_leaves_its_range_by_rounding() -> None:
    for seed in range(20):
        _, golds = random_labels(seed, 33, 5)
        assert 1 - 1e-12 < matthews(golds, one_each(golds)) <= 1.0


# Numbers


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("n", [3, 8, 50])
@pytest.mark.parametrize("name", ["pearson", "spearman"])
def test_correlations_are_those_of_scipy(name: str, n: int, ties: bool) -> None:
    for seed in range(10):
        x, y = random_numbers(seed, n, ties=ties)
        if len(set(x)) > 1 and len(set(y)) > 1:
            assert_close(scored(name, x, y), by_scipy(name, x, y), 1e-10)


def test_the_comparison_would_notice_one_correlation_in_the_place_of_the_other() -> None:
    x, y = random_numbers(0, 50, ties=False)
    with pytest.raises(AssertionError, match="largest difference"):
        assert_close(scored("pearson", x, y), by_scipy("spearman", x, y), 1e-10)


def test_the_comparison_would_notice_ties_that_do_not_share_their_rank() -> None:
    x, y = random_numbers(0, 50, ties=True)
    order = stats.rankdata(x, method="ordinal").tolist(), stats.rankdata(y, method="ordinal").tolist()
    with pytest.raises(AssertionError, match="largest difference"):
        assert_close(scored("pearson", *order), by_scipy("spearman", x, y), 1e-10)


@pytest.mark.parametrize(
    ("x", "y"),
    [([0.1] * 3, [1.0, 2.0, 4.0]), ([1.0, 2.0, 4.0], [0.1] * 3), ([0.1] * 3, [0.1] * 3), ([0.7] * 6, [-0.3] * 6)],
    ids=["predictions", "references", "both the same", "both different"],
)
@pytest.mark.parametrize("name", ["pearson", "spearman"])
def test_a_correlation_with_a_constant_is_0(name: str, x: list[float], y: list[float]) -> None:
    assert scored(name, x, y) == 0.0


@pytest.mark.parametrize("scale", [1e-200, 1e200])
@pytest.mark.parametrize("name", ["pearson", "spearman"])
def test_a_correlation_does_not_depend_on_the_size_of_the_numbers(name: str, scale: float) -> None:
    x, y = random_numbers(3, 20, ties=False)
    assert_close(scored(name, [scale * value for value in x], y), scored(name, x, y), 1e-10)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("name", ["pearson", "spearman"])
def test_correlations_never_leave_their_range_by_rounding(name: str, sign: int) -> None:
    for seed in range(20):
        x, _ = random_numbers(seed, 33, ties=False)
        found = scored(name, x, [sign * value / 3 for value in x])
        assert 1 - 1e-12 < sign * found <= 1.0


@pytest.mark.parametrize("unread", ["", "about three", "nan", "inf", "-inf"])
def test_an_answer_that_is_no_number_counts_as_0(unread: str) -> None:
    references = one_each(["1", "2", "3"])
    assert pearson([unread, "2", "3.5"], references) == pearson(["0", "2", "3.5"], references)


# Texts, by SQuAD's rules


@pytest.mark.parametrize(
    ("prediction", "references", "exact", "f1"),
    [
        ("Denver Broncos", ("Denver Broncos", "The Denver Broncos"), 1.0, 1.0),
        ("the denver  broncos!", ("Denver Broncos",), 1.0, 1.0),
        ("Broncos", ("Denver Broncos", "Carolina"), 0.0, 2 / 3),  # 1 of 1 and 1 of 2
        ("the big red barn", ("a red barn", "barn"), 0.0, 4 / 5),  # 2 of 3 and 2 of 2, better than 1 of 3 and 1 of 1
        ("red red barn", ("red barn barn",), 0.0, 2 / 3),  # each word as often as both have it: 2 of 3 and 2 of 3
        ("barn red", ("red barn",), 0.0, 1.0),
        ("U.S.", ("us",), 1.0, 1.0),
        ("state-of-the-art", ("state of the art",), 0.0, 0.0),  # stateoftheart is one word
        ("another theory", ("other theory",), 0.0, 1 / 2),  # articles are taken out as words only
        ("", ("late",), 0.0, 0.0),
        ("...", ("late",), 0.0, 0.0),
        ("late", ("the",), 0.0, 0.0),
        ("a", ("The",), 1.0, 0.0),  # nothing is left of either: equal, and no word shared
        ("", ("The", "an"), 0.0, 0.0),  # no answer is not an article
        ("late", ("early",), 0.0, 0.0),
        ("Zürich", ("zürich.",), 1.0, 1.0),
    ],
)
def test_scores_of_texts_worked_by_hand(prediction: str, references: tuple[str, ...], exact: float, f1: float) -> None:
    assert exact_match([prediction], [references]) == exact
    assert token_f1([prediction], [references]) == pytest.approx(f1)


@pytest.mark.parametrize(("metric", "expected"), [(exact_match, 1 / 3), (token_f1, (1 + 2 / 3 + 0) / 3)])
def test_scores_of_texts_are_means_over_examples(
    metric: Callable[[Sequence[str], Sequence[tuple[str, ...]]], float], expected: float
) -> None:
    assert_close(metric(["the barn", "barn", ""], one_each(["Barn", "red barn", "barn"])), expected)


# What is refused


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize(
    ("predictions", "references"), [(["a"], [("a",), ("b",)]), (["a", "b"], [("a",)]), ([], [])], ids=str
)
def test_unequal_lengths_and_nothing_at_all_are_refused(
    name: str, predictions: list[str], references: list[tuple[str, ...]]
) -> None:
    with pytest.raises(BadInput, match=f"{len(predictions)} predictions for {len(references)} references"):
        METRICS[name](predictions, references)


@pytest.mark.parametrize("name", METRICS)
def test_an_example_without_a_reference_is_refused(name: str) -> None:
    with pytest.raises(BadInput, match="no reference answer"):
        METRICS[name](["a", "b"], [("a",), ()])


def test_metrics_are_found_by_their_names() -> None:
    assert get_metric("macro_f1").function is macro_f1
    assert all(get_metric(name).name == name for name in METRICS)


def test_an_unknown_metric_is_answered_with_the_nearest_and_all_there_are() -> None:
    with pytest.raises(UnknownName, match="'macro_f1'") as caught:
        get_metric("macrof1")
    assert all(name in str(caught.value) for name in METRICS)


# Classes by name, groups, numbers in texts


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("classes", CLASSES)
@pytest.mark.parametrize("n", COUNTS)
def test_the_f1_of_a_class_is_that_of_scikit_learn(n: int, classes: int, seed: int) -> None:
    predictions, golds = random_labels(seed, n, classes)
    for label in ("class 0", "class 1"):
        binary = [[text == label for text in texts] for texts in (golds, predictions)]
        expected = float(sklearn_metrics.f1_score(*binary, zero_division=0))
        assert_close(get_metric(f"f1({label})")(predictions, one_each(golds)), expected)


@pytest.mark.parametrize(
    ("predictions", "golds", "f1"),
    [
        (["no", "no"], ["no", "no"], 0.0),  # the class never occurs
        (["yes", "yes"], ["no", "no"], 0.0),
        (["", "yes"], ["yes", "yes"], 2 / 3),  # an unread answer misses
        (["yes)", "(yes"], ["yes", "yes"], 0.0),
    ],
)
def test_the_f1_of_a_class_at_its_edges(predictions: list[str], golds: list[str], f1: float) -> None:
    assert_close(get_metric("f1(yes)")(predictions, one_each(golds)), f1)


def test_a_class_may_have_brackets_and_lines_in_its_name() -> None:
    assert get_metric("f1(a (b)\nc)")(["a (b)\nc"], [("a (b)\nc",)]) == 1.0


@pytest.mark.parametrize("name", ["f1", "f1()", "F1(yes)", "f1(yes"])
def test_an_f1_without_a_class_is_unknown(name: str) -> None:
    with pytest.raises(UnknownName, match=r"f1\(CLASS\)"):
        get_metric(name)


@pytest.mark.parametrize("seed", range(5))
def test_a_question_is_right_when_all_its_answers_are(seed: int) -> None:
    predictions, golds = random_labels(seed, 40, 2)
    groups = [f"question {i}" for i in np.random.default_rng(seed).integers(9, size=40)]
    right = {g: [p == t for p, t, h in zip(predictions, golds, groups, strict=True) if h == g] for g in groups}
    expected = sum(all(of_one) for of_one in right.values()) / len(right)
    assert_close(question_em(predictions, one_each(golds), groups), expected)
    assert measure(["question_em"], predictions, one_each(golds), groups) == {"question_em": expected}


def test_without_groups_every_answer_is_its_own_question() -> None:
    predictions, golds = random_labels(0, 40, 2)
    expected = accuracy(predictions, one_each(golds))
    assert_close(question_em(predictions, one_each(golds)), expected)
    assert_close(question_em(predictions, one_each(golds), [""] * 40), expected)
    with pytest.raises(BadInput, match="3 groups for 40 predictions"):
        question_em(predictions, one_each(golds), ["a"] * 3)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("#### 18", "18"),
        ("The answer is: 1,234,567.", "1234567"),
        ("It costs $1,200.50 in all", "1200.50"),
        ("from 3 to -7", "-7"),
        ("-$5", "-5"),
        ("\N{MINUS SIGN}5", "-5"),
        ("7-3", "3"),  # a subtraction
        ("(2)-3", "3"),
        ("= 0.5", "0.5"),
        ("about .5", ".5"),
        ("12,34", "34"),  # no thousands
        ("1,2345", "2345"),
        ("3.", "3"),
        ("x2", "2"),
        ("none", ""),
        ("", ""),
    ],
)
def test_the_last_number_is_read(text: str, number: str) -> None:
    assert final_number(text) == number


def test_numbers_match_by_value() -> None:
    golds = one_each(["18", "18", "18", "18", "18"])
    assert number_match(["18.0", "so 18", "$18", "18 or 19", ""], golds) == 3 / 5
    assert number_match(["1,000"], [("no number",)]) == 0.0
    assert number_match(["4"], [("3", "4")]) == 1.0


@pytest.mark.parametrize("name", ["pearson", "spearman"])
def test_unread_numbers_are_counted_beside_a_correlation(name: str) -> None:
    predictions = ["1.0", "two", "nan", "inf", "", "3e0", "-4"]
    golds = one_each(["1", "2", "3", "4", "5", "3", "0"])
    assert_close(numeric(predictions, golds), 3 / 7)
    read = [1.0, 0.0, 0.0, 0.0, 0.0, 3.0, -4.0]  # an unread one counts as 0
    expected = by_scipy(name, read, [1, 2, 3, 4, 5, 3, 0])
    assert_close({"pearson": pearson, "spearman": spearman}[name](predictions, golds), expected)


# The published evaluation scripts, beside ours


def squad(prediction: str, golds: Sequence[str]) -> tuple[float, float]:
    """SQuAD 1.1's, as it is written (evaluate-v1.1.py); MRQA's and ReCoRD's are the same. ("" stands for no answer.)"""

    def normalised(text: str) -> str:
        text = "".join(letter for letter in text.lower() if letter not in set(string.punctuation))
        return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())

    def f1(gold: str) -> float:
        said, true = normalised(prediction).split(), normalised(gold).split()
        same = sum((Counter(said) & Counter(true)).values())
        if same == 0:
            return 0.0
        precision, recall = same / len(said), same / len(true)
        return 2 * precision * recall / (precision + recall)

    if prediction == "":  # the script scores a question without an answer 0
        return 0.0, 0.0
    return float(max(normalised(prediction) == normalised(gold) for gold in golds)), max(map(f1, golds))


NOTHING_LEFT = ["the", "a", "An", "-", "...", "the-", "\u00a0"]
WORDS = [
    *NOTHING_LEFT, "cat", "Cat.", "cat's", "theory", "the-cat", "a-b", "U.S.", "1,000", "\tdog\n", "_",
    "\u2014", "\u201cthe\u201d", "\uff0c", "\u5317\u4eac", "stra\u00dfe", "STRASSE",
    "\u00e9t\u00e9", "e\u0301te\u0301", "\u00c9T\u00c9", "\u0130", "i\u0307",
]  # fmt: skip


@pytest.mark.parametrize("seed", range(20))
def test_exact_match_and_f1_are_squads(seed: int) -> None:
    generator = np.random.default_rng(seed)

    def said() -> str:
        return " ".join(generator.choice(WORDS, size=generator.integers(0, 5)).tolist())

    for _ in range(30):
        prediction, golds = said(), tuple(said() for _ in range(generator.integers(1, 4)))
        em, f1 = squad(prediction, golds)
        assert_close(exact_match([prediction], [golds]), em)
        assert_close(token_f1([prediction], [golds]), f1)


def test_the_comparison_would_notice_the_rules_of_squad_2() -> None:
    # Version 2.0 calls two texts without a word left alike.
    with pytest.raises(AssertionError, match="largest difference"):
        assert_close(1.0, squad("the", ["a"])[1])


@pytest.mark.parametrize("prediction", NOTHING_LEFT)
@pytest.mark.parametrize("gold", NOTHING_LEFT)
def test_texts_without_a_word_left_are_equal_and_share_nothing(prediction: str, gold: str) -> None:
    assert (exact_match([prediction], [(gold,)]), token_f1([prediction], [(gold,)])) == squad(prediction, [gold])
    assert squad(prediction, [gold]) == (1.0, 0.0)


def multirc(predictions: Sequence[str], golds: Sequence[str], groups: Sequence[str]) -> tuple[float, float]:
    """SuperGLUE's metric: F1 over all answers, and the share of questions all of whose answers are right."""
    questions: dict[str, list[bool]] = {}
    for prediction, gold, group in zip(predictions, golds, groups, strict=True):
        questions.setdefault(group, []).append(prediction == gold)
    exact = [int(sum(right) == len(right)) for right in questions.values()]
    f1 = sklearn_metrics.f1_score([g == "1" for g in golds], [p == "1" for p in predictions], zero_division=0)
    return float(f1), sum(exact) / len(exact)


@pytest.mark.parametrize("said", ["any", "0", "1"])
@pytest.mark.parametrize("true", ["any", "0", "1"])
def test_multirc_is_scored_as_superglue_does(said: str, true: str) -> None:
    generator = np.random.default_rng(7)
    draw = lambda: [str(i) for i in generator.integers(2, size=60)]  # noqa: E731
    predictions, golds = (draw() if what == "any" else [what] * 60 for what in (said, true))
    groups = [f"{i}" for i in generator.integers(12, size=60)]  # not one after the other
    found = measure(["f1(1)", "question_em"], predictions, one_each(golds), groups)
    assert_close([found["f1(1)"], found["question_em"]], multirc(predictions, golds, groups))


def f1_with_invalid(predictions: Sequence[str], golds: Sequence[str]) -> float:
    """T5's: an answer that is no class is the opposite of the true one."""
    answered = [p if p in {"0", "1"} else {"0": "1", "1": "0"}[g] for p, g in zip(predictions, golds, strict=True)]
    return float(sklearn_metrics.f1_score([g == "1" for g in golds], [p == "1" for p in answered], zero_division=0))


@pytest.mark.parametrize("seed", range(10))
def test_unread_answers_count_against_the_f1_of_a_class_as_in_t5(seed: int) -> None:
    generator = np.random.default_rng(seed)
    golds = [str(i) for i in generator.integers(2, size=30)]
    predictions = generator.choice(["0", "1", ""], size=30).tolist()
    assert_close(get_metric("f1(1)")(predictions, one_each(golds)), f1_with_invalid(predictions, golds))


def test_silence_does_not_earn_the_f1_of_a_class() -> None:
    # One hit; said 3 (two of them unread), true 1.
    assert_close(get_metric("f1(1)")(["1", "", ""], one_each(["1", "0", "0"])), 2 / 4)


@pytest.mark.parametrize(
    ("predictions", "golds"),
    [
        (["d", "a", "b", "a"], ["a", "a", "b", "b"]),  # a class that is never true
        (["a", "a", "b", "b"], ["d", "a", "b", "a"]),  # one that is never said
        (["d", "e", "f"], ["a", "b", "c"]),
        (["\u00e9", "e\u0301"], ["e\u0301", "\u00e9"]),  # two spellings of a letter are two classes
        (["0", "00"], ["00", "0"]),
    ],
    ids=["never true", "never said", "all foreign", "spellings", "zeros"],
)
def test_macro_f1_is_scikit_learns_over_all_classes_that_occur(predictions: list[str], golds: list[str]) -> None:
    # scikit-learn's own default, which is SuperGLUE's metric of CB: no classes are named.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = float(sklearn_metrics.f1_score(golds, predictions, average="macro"))
    assert_close(macro_f1(predictions, one_each(golds)), expected)


@pytest.mark.parametrize("classes", CLASSES)
def test_an_unread_answer_is_one_more_class_of_matthews(classes: int) -> None:
    for seed in range(5):
        predictions, golds = random_labels(seed, 40, classes)
        predictions = [("" if i % 3 == 0 else p) for i, p in enumerate(predictions)]
        assert_close(matthews(predictions, one_each(golds)), by_sklearn("matthews", predictions, golds), 1e-12)


@pytest.mark.parametrize(
    ("x", "y"),
    [
        ([0.0] * 9 + [1.0], [float(i) for i in range(10)]),  # all but one tied
        ([1e8 + i / 10 for i in range(10)], [i % 3 for i in range(10)]),  # far from 0
        ([1.0, 1.0 + 1e-12, 1.0 - 1e-12, 1.0], [1.0, 2.0, 0.0, 1.5]),  # all but constant
        ([1e300, -1e300, 1e-300, 0.0], [1.0, 2.0, 3.0, 4.0]),
        ([0.0, -0.0, 0.0, 1.0], [3.0, 1.0, 2.0, 4.0]),  # two zeros tie
    ],
    ids=["ties", "offset", "nearly constant", "huge and tiny", "signed zeros"],
)
@pytest.mark.parametrize("name", ["pearson", "spearman"])
def test_correlations_of_awkward_numbers_are_those_of_scipy(name: str, x: list[float], y: list[float]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scipy warns of what is all but constant
        expected = by_scipy(name, x, y)
    assert_close(scored(name, x, y), expected, 1e-7)  # the last place of 1e8 is 1e-8


def test_one_number_alone_has_no_correlation() -> None:
    assert pearson(["3"], [("4",)]) == spearman(["3"], [("4",)]) == 0.0  # scipy refuses it
