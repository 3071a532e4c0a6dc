"""Labels that cannot be learned are refused, and those that look wrong are named."""

import json
from pathlib import Path

import pytest

from softprompt.errors import BadData
from softprompt.tasks import Task, from_files
from tests.data_files import write


def labelled(path: Path, labels: list[object]) -> Task:
    path.write_text("".join(json.dumps({"text": f"t {i}", "label": label}) + "\n" for i, label in enumerate(labels)))
    return from_files(path)


def test_a_missing_label_is_no_class(tmp_path: Path) -> None:
    with pytest.raises(BadData, match=r"line 3: no column 'label'"):
        labelled(tmp_path / "data.jsonl", ["a", "b", float("nan")] * 10)


def test_a_list_of_labels_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadData, match=r"line 1: the label '\[\"a\", \"b\"\]' is a list"):
        labelled(tmp_path / "data.jsonl", [["a", "b"], ["a"]] * 10)
    assert labelled(tmp_path / "data.jsonl", ["[a", "[b"] * 10).choices == ("[a", "[b")


def test_real_numbers_are_text_that_is_scored_by_correlation(tmp_path: Path) -> None:
    task = labelled(tmp_path / "data.jsonl", [i / 4 for i in range(20)] * 3)
    assert (task.choices, task.metrics) == ((), ("pearson", "spearman"))
    assert "the labels are 20 numbers, not classes: they are learned as text, and scored by correlation" in task.notes
    assert labelled(tmp_path / "data.jsonl", [1, 2, 3] * 10).choices == ("1", "2", "3")
    assert labelled(tmp_path / "data.jsonl", [0.0, 1.0] * 10).choices == ("0", "1")


@pytest.mark.parametrize("other", ["Good", "".join(chr(ord(one) + 0xFEE0) for one in "good"), "go\u200bod", "GOOD"])
def test_labels_that_readers_see_as_one_are_named(tmp_path: Path, other: str) -> None:
    notes = labelled(tmp_path / "data.jsonl", ["good", "good", other, "bad"] * 10).notes
    named = ", ".join(f"{label!r} ({count})" for label, count in sorted([("good", 20), (other, 10)]))
    assert f"labels that differ in case, width or invisible characters alone: {named}" in notes


@pytest.mark.parametrize("missing", ["nan", "None", "NULL", "N/A"])
def test_a_label_that_may_be_a_missing_value_is_named(tmp_path: Path, missing: str) -> None:
    rows = [{"text": f"t {i}", "label": ("a", "b", missing)[i % 3]} for i in range(30)]
    notes = from_files(write(tmp_path / "data.csv", rows)).notes
    assert f"{missing!r} (10 rows) is learned as a class; leave those rows out if it is a missing value" in notes


def test_a_few_hundred_classes_are_choices_and_said_to_be_slow(tmp_path: Path) -> None:
    task = labelled(tmp_path / "data.jsonl", [f"class {i}" for i in range(300)] * 3)
    assert len(task.choices) == 300
    assert "300 classes: each is scored for each text, which takes time" in task.notes
