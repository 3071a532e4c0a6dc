"""The settings of a search: grids, draws, and words that cannot be meant."""

import math

import numpy as np
import pytest
from scipy import stats

from softprompt.errors import BadInput
from softprompt.experiments.search_space import Range, list_settings, parse_grid, parse_ranges


def test_a_grid_is_every_combination_in_order() -> None:
    grid = parse_grid(["rates.prompt=0.1,1e-3", "start=noise,vocabulary", 'start_text=["a, b", "c"]', "clip=null,1"])
    assert grid == {
        "rates.prompt": [0.1, 0.001], "start": ["noise", "vocabulary"], "start_text": ["a, b", "c"], "clip": [None, 1],
    }  # fmt: skip
    found = list_settings(grid, {}, None)
    assert len(found) == 16
    assert found[0] == {"rates.prompt": 0.1, "start": "noise", "start_text": "a, b", "clip": None}
    assert found[1] == found[0] | {"clip": 1}


def test_draws_are_different_repeatable_and_begin_as_fewer_do() -> None:
    grid, ranges = {"start": ["noise", "vocabulary"]}, parse_ranges(["length=2..40", "rates.prompt=1e-3..1:log"])
    many = list_settings(grid, ranges, 50)
    assert many[:10] == list_settings(grid, ranges, 10)
    assert many != list_settings(grid, ranges, 50, seed=1)
    assert len({str(one) for one in many}) == 50
    assert {one["start"] for one in many} == {"noise", "vocabulary"}
    assert all(isinstance(one["length"], int) and 2 <= one["length"] <= 40 for one in many)
    assert all(float(f"{one['rates.prompt']:.3g}") == one["rates.prompt"] for one in many)


@pytest.mark.parametrize(
    ("between", "to"),
    [
        (Range(0.001, 1, log=True), math.log10),
        (Range(0.1, 0.9), float),
        (Range(1, 1000, log=True, whole=True), math.log10),
    ],
)
def test_draws_are_even_over_their_range(between: Range, to: object) -> None:
    found = list_settings({}, {"x": between}, 400)
    low, high = to(between.low), to(between.high)  # type: ignore[operator]
    values = np.array([to(one["x"]) for one in found])  # type: ignore[operator]
    assert ((low <= values) & (values <= high)).all()
    if not between.whole:  # distinct whole numbers are not even
        assert stats.kstest(values, stats.uniform(low, high - low).cdf).pvalue > 0.01
        assert stats.kstest(values, stats.uniform(low, (high - low) / 2).cdf).pvalue < 1e-6


def test_whole_numbers_take_every_value_of_their_range() -> None:
    assert sorted(one["x"] for one in list_settings({}, {"x": Range(3, 7, whole=True)}, 5)) == [3, 4, 5, 6, 7]


@pytest.mark.parametrize(
    ("grid", "ranges", "draws", "message"),
    [
        (["rates.prompt"], [], None, "expected FIELD=V1,V2"),
        (["length=1,2", "length=3"], [], None, "given twice"),
        (["length=1,1"], [], None, "a value is there twice"),
        (["x=[1,"], [], None, "begins as a JSON list"),
        (["x=[]"], [], None, "--grid x has no value"),
        ([], ["length=2"], 3, "expected FIELD=LOW..HIGH"),
        ([], ["length=9..2"], 3, "expected FIELD=LOW..HIGH"),
        ([], ["length=2..9:lg"], 3, "expected FIELD=LOW..HIGH"),
        ([], ["length=a..9"], 3, "expected FIELD=LOW..HIGH"),
        ([], ["rates.prompt=0..1:log"], 3, "needs a range above 0"),
        (["length=1,2"], ["length=2..9"], 3, "with --grid and with --range"),
        ([], ["length=2..9"], None, "--random N"),
        (["length=1,2"], [], 3, "after 2 different settings"),
    ],
)
def test_words_that_cannot_be_meant(grid: list[str], ranges: list[str], draws: int | None, message: str) -> None:
    with pytest.raises(BadInput) as caught:
        list_settings(parse_grid(grid), parse_ranges(ranges), draws)
    assert message in str(caught.value)
