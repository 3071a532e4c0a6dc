"""Endpoints of a comparison: how sure and how fast methods are, and the mean over tasks."""

import math

import numpy as np
import pytest

from softprompt.evaluation.bootstrap import Drawn
from softprompt.experiments.endpoints import describe, mean_over_steps, overall, shown_difference, steps_to_share


@pytest.mark.parametrize(
    ("curve", "steps"),
    [
        ([(0, 2.0), (10, 1.0)], 9.0),  # even fall
        ([(0, 2.0), (10, 1.1), (20, 1.0)], 10.0),  # there at an evaluation
        ([(0, 2.0), (10, 1.0), (20, 1.5)], 9.0),  # what is lost later does not count
        ([(0, 2.0), (10, 2.5), (20, 1.0)], 20 - 10 * 0.1 / 1.5),  # nor a rise before
        ([(0, 1.0), (10, 2.0), (20, 1.5)], 20.0),  # never fell
    ],
)
def test_steps_to_nine_tenths_of_the_fall(curve: list[tuple[int, float]], steps: float) -> None:
    assert steps_to_share(curve, 0.9) == pytest.approx(steps)


def test_the_area_is_the_mean_over_steps() -> None:
    assert mean_over_steps([(0, 2.0), (10, 1.0), (40, 1.0)]) == pytest.approx((15 + 30) / 40)


def drawn(mean: float, spread: float = 0.001, seed: int = 0) -> Drawn:
    return Drawn(mean, np.random.default_rng(seed).normal(mean, spread, 1000))


def test_a_lower_loss_is_better_and_a_higher_score_is() -> None:
    assert describe("score", drawn(0.1)).verdict == "better"
    assert describe("nll", drawn(0.1)).verdict == "worse"
    assert describe("steps_to_90", drawn(-0.1)).verdict == "better"
    assert describe("nll", drawn(0.1, spread=1.0)).verdict == "tie"


def test_differences_are_shown_in_points_nats_and_ratios() -> None:
    assert shown_difference("score", describe("score", drawn(0.05, 1e-9))).startswith("+5.0 [+5.0, +5.0] better")
    assert shown_difference("nll", describe("nll", drawn(-0.05, 1e-9))).startswith("-0.050 [")
    halved = shown_difference("steps_to_90", describe("steps_to_90", drawn(math.log(0.5), 1e-9)))
    assert halved.startswith("x0.50 [x0.50, x0.50] better (can see x1.00)")


def test_the_mean_over_tasks_is_of_methods_and_endpoints_that_all_have() -> None:
    tasks = {
        "a": {"score": {"base": drawn(0), "one": drawn(0.02), "two": drawn(0.02)}, "nll": {"base": drawn(0)}},
        "b": {"score": {"base": drawn(0), "one": drawn(0.04)}},
    }
    (found,) = overall(tasks, "base")
    assert (found.endpoint, found.tasks, [row.label for row in found.rows]) == ("score", ["a", "b"], ["one"])
    assert found.rows[0].difference.mean == pytest.approx(0.03)
