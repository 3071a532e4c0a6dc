"""What a comparison can see is said before it is run."""

import math
from pathlib import Path

import numpy as np
import pytest

from softprompt.errors import BadInput
from softprompt.experiments.power import (
    Variation,
    describe_power,
    detectable,
    detectable_mean,
    parse_spread,
    pilot_spread,
)
from softprompt.experiments.tables import ComparisonTable, MethodRow, TaskComparison


def test_the_smallest_difference_is_found_four_times_in_five() -> None:
    """Simulated: five seeds whose differences have that mean and standard deviation, and a t-test of them."""
    scipy_stats = pytest.importorskip("scipy.stats")
    variation = Variation(seeds=0.02, tasks=0.0, examples=0.0)
    smallest = detectable(variation, 5, 1000)
    draws = np.random.default_rng(0).normal(smallest, 0.02, size=(20_000, 5))
    found = scipy_stats.ttest_1samp(draws, 0, axis=1).pvalue < 0.05
    assert float(found.mean()) == pytest.approx(0.8, abs=0.03)


def test_more_seeds_examples_and_tasks_see_smaller_differences() -> None:
    variation = Variation()
    by_seeds = [detectable(variation, seeds, 500) for seeds in (2, 3, 5, 10)]
    assert by_seeds == sorted(by_seeds, reverse=True)
    assert detectable(variation, 3, 2000) < detectable(variation, 3, 200)
    few, many = ({str(i): 500 for i in range(count)} for count in (2, 8))
    assert detectable_mean(variation, 5, many) < detectable_mean(variation, 5, few)
    assert detectable_mean(variation, 5, many) < detectable(variation, 5, 500)


def row(label: str, test: list[float]) -> MethodRow:
    mean = sum(test) / len(test)
    return MethodRow(
        label=label, method=label, options={}, rates={}, seeds=list(range(len(test))), test=test, mean=mean,
        deviation=None, dev=test, difference=None, steps=1, batch=1, best_steps=[], stopped=[], trainable=1, stored=1,
        curves=[], folders=[],
    )  # fmt: skip


def pilot(folder: Path, *tasks: list[MethodRow]) -> Path:
    parts = [
        TaskComparison(task=str(i), metric="accuracy", baseline="base", test_examples=100, floors={}, rows=rows)
        for i, rows in enumerate(tasks)
    ]
    table = ComparisonTable(format=1, title="", backbone="", budget=1, notes=[], tasks=parts, versions={})
    folder.mkdir()
    (folder / "table.json").write_text(table.model_dump_json())
    return folder


def test_a_pilot_says_how_much_seeds_and_tasks_vary(tmp_path: Path) -> None:
    base = row("base", [0.5, 0.5, 0.5])
    near, far = row("a", [0.51, 0.53, 0.55]), row("a", [0.61, 0.63, 0.65])
    found = pilot_spread(pilot(tmp_path / "a", [base, near], [base, far]))
    assert found.seeds == pytest.approx(0.02)
    # 3 and 13 points: a variance of 50, of which a third of 4 is that of the seeds
    assert found.tasks == pytest.approx(math.sqrt(0.005 - 0.0004 / 3))
    with pytest.raises(BadInput, match="has one seed"):
        pilot_spread(pilot(tmp_path / "b", [row("base", [0.5]), row("a", [0.6])]))


@pytest.mark.parametrize("text", ["", "1", "a,b", "1,-2", "1,2,3,4", "1,nan"])
def test_a_spread_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(BadInput, match="--spread"):
        parse_spread(text)


def test_what_can_be_seen_is_said_in_points() -> None:
    assert parse_spread("1.5,2") == Variation()
    said = describe_power(parse_spread("2,0,0"), 5, {"a": 100})
    assert f"a {100 * detectable(Variation(0.02, 0, 0), 5, 100):.1f}." in said
    assert "mean over" not in said
    assert "mean over 2 tasks" in describe_power(Variation(), 3, {"a": 100, "b": 200})
