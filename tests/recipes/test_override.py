"""Changing a recipe by name, for one method and for several at once."""

from typing import Any

import pytest

from softprompt.errors import BadInput, UnknownName
from softprompt.recipes import Recipe
from softprompt.recipes.override import override, override_all, taken
from softprompt.recipes.registry import get_recipe

DEPT = Recipe(method="dept", options={"length": 20, "rank": 5}, rates={"prompt": 0.3})


def changed(given: dict[str, Any], recipe: Recipe = DEPT) -> Recipe:
    return override_all([recipe], given)[0]


def test_a_name_changes_its_field_and_leaves_the_others() -> None:
    found = changed({"steps": 7, "rates.offset": 0.01, "decay.prompt": 0.5, "length": 3, "patience": None})
    assert found == Recipe(
        method="dept", options={"length": 3, "rank": 5}, rates={"prompt": 0.3, "offset": 0.01},
        decay={"prompt": 0.5}, steps=7, patience=None,
    )  # fmt: skip
    assert DEPT.options == {"length": 20, "rank": 5}, "the given recipe is as it was"


@pytest.mark.parametrize("name", ["length", "prompt.length", "options.length"])
def test_an_option_may_be_said_with_its_part_in_front(name: str) -> None:
    assert changed({name: 9}).options == {"length": 9, "rank": 5}


@pytest.mark.parametrize("name", ["rank", "offset.rank", "options.rank"])
def test_an_option_of_the_offset_may_be_said_with_its_part_in_front(name: str) -> None:
    assert changed({name: 9}).options == {"length": 20, "rank": 9}


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [
        ("stps", "steps"),
        ("rates.prmpt", "rates.prompt"),
        ("decay.ofset", "decay.offset"),
        ("lenght", "length"),
        ("prompt.lenght", "prompt.length"),
        ("offset.rnk", "offset.rank"),
    ],
)
def test_a_name_that_nothing_has_is_answered_with_the_nearest(name: str, suggestion: str) -> None:
    with pytest.raises(UnknownName) as caught:
        changed({name: 1})
    assert f"Did you mean {suggestion!r}" in str(caught.value)


def test_an_option_of_the_other_part_is_answered_with_its_own() -> None:
    with pytest.raises(UnknownName, match=r"There is offset\.rank\.$"):
        changed({"prompt.rank": 1})
    with pytest.raises(UnknownName, match=r"There is prompt\.length\.$"):
        changed({"offset.length": 1})
    with pytest.raises(UnknownName):
        changed({"setting.steps": 1})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"steps": "many"}, "steps='many'"),
        ({"rates.prompt": "fast"}, "rates.prompt='fast'"),
        ({"rank": 1.5}, "option rank=1.5"),
        ({"schedule": "square"}, "schedule='square'"),
        ({"optimizer": "sgd"}, "optimizer='sgd'"),
        ({"start": "end"}, "option start='end'"),
        ({"batch": 4, "tokens_per_step": 40}, "batch=4 and tokens_per_step=40"),
        ({"steps": 4, "epochs": 2}, "both given"),
    ],
)
def test_a_value_of_another_kind_is_named(given: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput) as caught:
        changed(given)
    assert message in str(caught.value)


def test_steps_replace_epochs_and_the_reverse() -> None:
    epochs = Recipe(epochs=80, batch=32)
    assert changed({"steps": 9}, epochs).model_dump(exclude_unset=True) == {"steps": 9, "batch": 32}
    assert changed({"epochs": 2}, DEPT.model_copy(update={"steps": 9})).epochs == 2
    resolved = epochs.resolved(1.0, {"prompt"}, 100)  # as run.json has it
    assert changed({"epochs": 2}, resolved).epochs == 2
    paper = get_recipe("superpos/glue-rte").recipe
    assert changed({"steps": 5}, paper).resolved(1.0, {"weights", "codebook"}, 64).steps == 5


def test_tokens_replace_examples_and_the_reverse() -> None:
    assert changed({"tokens_per_step": 40}, Recipe(batch=4)) == Recipe(tokens_per_step=40)
    assert changed({"batch": 4}, Recipe(tokens_per_step=40)) == Recipe(batch=4)


def test_of_several_methods_each_takes_what_it_has() -> None:
    plain, dept, superpos = override_all(
        [Recipe(), DEPT, Recipe(method="superpos")],
        {"length": 3, "offset.rank": 2, "rates.prompt": 0.5, "rates.codebook": 0.1, "steps": 4, "sampled": 8},
    )
    assert plain == Recipe(options={"length": 3}, rates={"prompt": 0.5}, steps=4)
    assert dept == Recipe(method="dept", options={"length": 3, "rank": 2}, rates={"prompt": 0.5}, steps=4)
    assert superpos == Recipe(
        method="superpos", options={"length": 3, "sampled": 8}, rates={"codebook": 0.1}, steps=4
    )  # fmt: skip
    with pytest.raises(UnknownName, match=r"'rates\.weights'"):
        override_all([Recipe(), DEPT, Recipe(method="superpos")], {"rates.weihgts": 0.5})
    with pytest.raises(UnknownName):
        override_all([Recipe(), DEPT], {"sampled": 8})


def test_a_method_takes_what_it_has() -> None:
    given = {"length": 3, "rank": 2, "steps": 4}
    assert taken("prompt_tuning", given) == {"length": 3, "steps": 4}
    assert override(Recipe(), given) == Recipe(options={"length": 3}, steps=4)
