"""Bootstrap intervals against what is known of them."""

import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from softprompt.evaluation.bootstrap import (
    Difference,
    Drawn,
    bootstrap,
    draw_scores,
    draw_values,
    mean_over_tasks,
)
from softprompt.tasks.metrics import METRICS, Metric

N = 400


def differences(*given: Any, level: float = 0.95, **words: Any) -> dict[str, Difference]:
    return {name: drawn.difference(level) for name, drawn in draw_scores(*given, **words).items()}


def answers(right: int, n: int = N) -> list[str]:
    return ["yes"] * right + ["no"] * (n - right)


GOLDS = [("yes",)] * N


def test_of_one_run_it_is_the_normal_approximation_of_a_share() -> None:
    low, high = bootstrap(["accuracy"], [answers(320)], GOLDS)
    half = 1.96 * math.sqrt(0.8 * 0.2 / N)
    assert low == pytest.approx(0.8 - half, abs=0.008)
    assert high == pytest.approx(0.8 + half, abs=0.008)


def test_a_level_is_a_width() -> None:
    low, high = bootstrap(["accuracy"], [answers(320)], GOLDS, level=0.5)
    assert (high - low) / 2 == pytest.approx(0.6745 * math.sqrt(0.8 * 0.2 / N), abs=0.004)


def test_the_seed_decides_it() -> None:
    few = {"resamples": 50}
    assert bootstrap(["accuracy"], [answers(300)], GOLDS, **few) == bootstrap(
        ["accuracy"], [answers(300)], GOLDS, **few
    )
    assert bootstrap(["accuracy"], [answers(300)], GOLDS, **few) != bootstrap(
        ["accuracy"], [answers(300)], GOLDS, **few, seed=1
    )


def test_runs_that_differ_widen_it() -> None:
    """Two runs of 0.6 and 1.0: the mean of two draws is 0.6, 0.8 or 1.0."""
    low, high = bootstrap(["accuracy"], [answers(240), answers(400)], GOLDS, resamples=300)
    assert low < 0.62
    assert high == 1.0
    alike = bootstrap(["accuracy"], [answers(320), answers(320)], GOLDS, resamples=300)
    assert alike[1] - alike[0] < 0.1


def test_all_right_is_certain() -> None:
    assert bootstrap(["accuracy"], [answers(N)] * 3, GOLDS, resamples=20) == (1.0, 1.0)


@pytest.mark.parametrize("metric", sorted(name for name, metric in METRICS.items() if metric.is_mean))
def test_a_mean_over_examples_may_be_looked_up(metric: str, monkeypatch: pytest.MonkeyPatch) -> None:
    said = [["1", "two", "the 3", "x 4 y", ""] * 8, ["1", "2", "three", "4", "5 of 5"] * 8]
    golds = [("1",), ("two", "2"), ("3",), ("x y 4",), ("5",)] * 8
    looked_up = bootstrap([metric, "macro_f1"], said, golds, resamples=40)
    monkeypatch.setitem(METRICS, metric, Metric(metric, METRICS[metric].function))
    assert looked_up == pytest.approx(bootstrap([metric, "macro_f1"], said, golds, resamples=40), abs=1e-12)


def test_several_metrics_are_averaged() -> None:
    predictions, golds = [["1.0", "2.0", "3.0", "4.0", "5.0"] * 8], [(str(i % 5 + 1.0),) for i in range(40)]
    assert bootstrap(["pearson", "spearman"], predictions, golds, resamples=20) == (1.0, 1.0)
    low, high = bootstrap(["accuracy", "pearson"], predictions, [("0",)] * 40, resamples=20)
    assert (low, high) == (0.0, 0.0)


def test_the_examples_of_a_group_are_drawn_together() -> None:
    """Twenty groups of twenty equal answers are twenty draws, not four hundred."""
    predictions = [[("yes" if i // 20 < 10 else "no") for i in range(N)]]
    groups = [str(i // 20) for i in range(N)]
    low, high = bootstrap(["accuracy"], predictions, GOLDS, groups)
    assert (high - low) / 2 == pytest.approx(1.96 * math.sqrt(0.5 * 0.5 / 20), abs=0.03)
    low, high = bootstrap(["accuracy"], predictions, GOLDS)
    assert (high - low) / 2 == pytest.approx(1.96 * math.sqrt(0.5 * 0.5 / N), abs=0.008)


def test_a_question_that_is_drawn_twice_counts_twice() -> None:
    """The share of questions that are right is a share of n drawn questions: of two, 0, 1/2 or 1."""
    predictions = [["yes", "yes", "no", "no"] * 10]
    groups = [f"q{i // 2}" for i in range(40)]
    golds = [("yes",)] * 40
    found = bootstrap(["question_em"], predictions, golds, groups)
    # The same question by question: twenty answers, of which ten are right.
    assert found == bootstrap(["accuracy"], [["yes", "no"] * 10], [("yes",)] * 20)


def test_an_example_without_a_group_is_its_own() -> None:
    groups = ["a", "a", *[""] * (N - 2)]
    low, high = bootstrap(["accuracy"], [answers(320)], GOLDS, groups, resamples=300)
    assert 0.02 < high - low < 0.12


def test_the_score_lies_inside() -> None:
    generator = np.random.default_rng(3)
    runs = [["yes" if x < 0.7 else "no" for x in generator.random(N)] for _ in range(3)]
    share = float(np.mean([[answer == "yes" for answer in run] for run in runs]))
    low, high = bootstrap(["accuracy"], runs, GOLDS, resamples=200)
    assert low < share < high


# Differences to a baseline


def flipped(answers: list[str], *places: int) -> list[str]:
    return [{"yes": "no", "no": "yes"}[a] if i in places else a for i, a in enumerate(answers)]


def test_a_difference_of_single_runs_is_the_paired_bootstrap_of_scipy() -> None:
    generator = np.random.default_rng(1)
    base = [str(a) for a in generator.choice(["yes", "no"], N, p=[0.7, 0.3])]
    other = flipped(base, *generator.choice(N, 60, replace=False).tolist())
    found = differences(["accuracy"], {"a": [base], "b": [other]}, "a", GOLDS, resamples=4000)["b"]
    right = [np.array([a == "yes" for a in run], float) for run in (base, other)]
    expected = stats.bootstrap(
        (right[1] - right[0],), np.mean, n_resamples=4000, method="percentile", rng=np.random.default_rng(2)
    ).confidence_interval  # fmt: skip
    assert found.mean == pytest.approx(right[1].mean() - right[0].mean())
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.006)
    unpaired = bootstrap(["accuracy"], [other], GOLDS)
    assert found.high - found.low < 0.9 * (unpaired[1] - unpaired[0]), "pairing is what makes it narrow"


def test_the_variance_that_comes_from_seeds_is_that_of_their_mean() -> None:
    """Each run is right on all examples or on none of them, so examples add nothing and seeds everything."""
    base = [["no"] * 5] * 4
    runs = [["yes"] * 5, ["no"] * 5, ["yes"] * 5, ["yes"] * 5]
    found = differences(["accuracy"], {"a": base, "b": runs}, "a", [("yes",)] * 5, level=0.5, resamples=2000)["b"]
    assert found.mean == 0.75
    # The mean of three draws of the four: its variance is that of a mean of four, s^2 / 4.
    draws = np.random.default_rng(0).choice([1.0, 0.0, 1.0, 1.0], (20000, 3)).mean(1)
    assert draws.var() == pytest.approx(np.var([1, 0, 1, 1], ddof=1) / 4, rel=0.03)
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(draws, [0.25, 0.75])))
    assert found.low == pytest.approx(2 / 3), "of four draws it would be 0.5 or 0.75"


def test_seeds_that_move_both_methods_alike_are_no_difference_where_they_are_paired() -> None:
    base = [answers(right) for right in (200, 300, 400)]
    other = [flipped(run, 0) for run in base]
    words: dict[str, Any] = {"resamples": 300}
    paired = differences(["accuracy"], {"a": base, "b": other}, "a", GOLDS, **words)["b"]
    assert paired.mean == pytest.approx(-1 / N)
    assert paired.high - paired.low < 0.02
    apart = differences(["accuracy"], {"a": base, "b": other}, "a", GOLDS, paired=False, **words)["b"]
    assert apart.high - apart.low > 0.2
    uneven = differences(["accuracy"], {"a": base, "b": other[:2]}, "a", GOLDS, **words)["b"]
    assert uneven.mean == pytest.approx(249.0 / N + 0.0 - 300 / N)


@pytest.mark.parametrize(
    ("right", "verdict"), [((320, 318, 322), "tie"), ((360, 361, 362), "better"), ((280, 281, 279), "worse")]
)
def test_a_tie_is_said_where_the_interval_holds_zero(right: tuple[int, ...], verdict: str) -> None:
    base = [answers(n) for n in (320, 321, 319)]
    found = differences(["accuracy"], {"a": base, "b": [answers(n) for n in right]}, "a", GOLDS, resamples=300)
    assert found["b"].verdict == verdict
    assert (found["b"].low <= 0 <= found["b"].high) == (verdict == "tie")
    assert found["a"] == Difference(0.0, 0.0, 0.0)
    assert found["a"].verdict == "tie"


def test_differences_of_grouped_examples_are_measured_as_whole_questions() -> None:
    golds = [("yes",), ("no",)] * 20
    groups = [str(i // 2) for i in range(40)]
    base, other = ["yes", "no"] * 20, ["yes", "yes"] * 10 + ["yes", "no"] * 10
    metric = "question_em"
    found = differences([metric], {"a": [base], "b": [other]}, "a", golds, groups, resamples=200)["b"]
    assert found.mean == -0.5
    assert -0.75 < found.low < -0.5 < found.high < -0.25


# Means over tasks


def test_a_mean_over_tasks_varies_as_tasks_do() -> None:
    """With nothing uncertain on a task, the interval is that of the tasks' means: a t-interval's, nearly."""
    means = [0.01, 0.03, 0.02, 0.06, 0.04, 0.02, 0.05, 0.01]
    tasks = [Drawn(mean, np.full(2000, mean)) for mean in means]
    found = mean_over_tasks(tasks)
    assert found.mean == pytest.approx(np.mean(means))
    assert found.resampled.std() == pytest.approx(np.std(means, ddof=1) / np.sqrt(8), rel=0.06)
    assert mean_over_tasks(tasks[:1]).difference() == (0.01, 0.01, 0.01)


def test_a_mean_over_tasks_is_surer_than_a_task_and_covers_what_is_true() -> None:
    generator, covered, wider = np.random.default_rng(0), 0, 0
    for _ in range(200):
        true = generator.normal(0.02, 0.02, 6)
        seen = generator.normal(true, 0.02)
        tasks = [Drawn(mean, generator.normal(mean, 0.02, 300)) for mean in seen]
        _, low, high = mean_over_tasks(tasks).difference()
        covered += low <= 0.02 <= high
        wider += high - low > tasks[0].difference().high - tasks[0].difference().low
    assert 0.9 <= covered / 200 <= 1
    assert wider < 20


def test_values_are_drawn_as_scores_are() -> None:
    """Answers that are right or wrong, drawn as numbers: the interval of accuracy."""
    references = [("a",)] * 60
    answers = {"base": [["a"] * 30 + ["b"] * 30] * 2, "other": [["a"] * 45 + ["b"] * 15] * 2}
    values = {name: [[float(one == "a") for one in run] for run in runs] for name, runs in answers.items()}
    by_score = draw_scores(["accuracy"], answers, "base", references)["other"]
    by_value = draw_values(values, "base")["other"]
    assert by_value.mean == by_score.mean == 0.25
    np.testing.assert_allclose(by_value.resampled, by_score.resampled)
    assert by_value.detectable() == pytest.approx(2.8 * by_value.resampled.std())
