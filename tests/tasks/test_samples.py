"""The shipped task."""

import pytest

from softprompt.errors import UnknownName
from softprompt.tasks import SPLITS, Split, Task
from softprompt.tasks.registry import get_task
from tests.data_files import sources


@pytest.fixture(scope="module")
def support() -> Task:
    return get_task("support")


@pytest.mark.parametrize(("split", "n"), [("train", 360), ("dev", 90), ("test", 150)])
def test_the_shipped_task_has_its_examples_equally_many_of_each_choice(support: Task, split: Split, n: int) -> None:
    targets = [example.target for example in support.examples[split]]
    assert len(targets) == n
    assert {choice: targets.count(choice) for choice in support.choices} == dict.fromkeys(support.choices, n // 6)


def test_the_shipped_task_has_six_choices_and_its_name(support: Task) -> None:
    assert support.name == "support"
    assert support.choices == ("payment", "delivery", "return", "password", "setup", "shopping")
    assert support.metrics == ("accuracy", "macro_f1")
    assert support.origin["task"] == "support"


def test_the_shipped_splits_share_no_text(support: Task) -> None:
    texts = [" ".join(source.lower().split()) for split in SPLITS for source in sources(support, split)]
    assert len(set(texts)) == len(texts) == 600


def test_every_text_of_the_shipped_task_says_something_and_ends_in_the_question(support: Task) -> None:
    examples = [example for split in SPLITS for example in support.examples[split]]
    assert all(example.source.removeprefix("Message: ").strip() for example in examples)
    assert {example.cue for example in examples} == {"\nThis message is about"}
    assert len({example.id for example in examples}) == 600


def test_an_unknown_task_is_answered_with_the_nearest_and_the_way_to_ones_own() -> None:
    with pytest.raises(UnknownName, match="Did you mean 'support'") as caught:
        get_task("suport")
    assert "--data FILE" in str(caught.value)
