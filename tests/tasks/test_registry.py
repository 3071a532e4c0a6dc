"""A task read again for a resumed run, and new data for a finished one."""

import json
from pathlib import Path

import pytest

from softprompt.errors import BadData
from softprompt.tasks import SPLITS, Example, Split, Task, evaluation_examples, from_files, from_origin
from tests.data_files import LABELS, labelled, write


def made(folder: Path, kind: str) -> Task:
    train = write(folder / "train.csv", labelled(30))
    if kind == "plain":
        return from_files(train)
    if kind == "drawn":
        return from_files(train, seed=7, fractions=(0.3, 0.2), name="mine", metrics=["matthews"])
    if kind == "open":
        return from_files(train, open_ended=True)
    if kind == "rare":
        return from_files(write(folder / "rare.csv", labelled(30, [str(i) for i in range(30)])))
    dev, test = (write(folder / f"{s}.csv", labelled(8, start=100)) for s in ("dev", "test"))
    return from_files(train, dev=dev, test=test, words={"good": "yes", "bad": "no"}, template="{text}!", label="label")


@pytest.mark.parametrize("kind", ["plain", "drawn", "open", "rare", "files"])
def test_a_recorded_task_is_read_again_as_it_was(tmp_path: Path, kind: str) -> None:
    task = made(tmp_path, kind)
    recorded = json.loads(json.dumps(task.origin))  # as run.json holds it
    assert from_origin(recorded) == task


@pytest.mark.parametrize("split", SPLITS)
def test_a_task_is_not_read_again_from_a_file_that_changed(tmp_path: Path, split: Split) -> None:
    task = made(tmp_path, "files")
    path = tmp_path / f"{split}.csv"
    path.write_bytes(path.read_bytes() + b"one more,good\n")
    with pytest.raises(BadData, match="not the file that the run began with") as caught:
        from_origin(task.origin)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("split", SPLITS)
def test_a_task_is_not_read_again_without_one_of_its_files(tmp_path: Path, split: Split) -> None:
    task = made(tmp_path, "files")
    path = tmp_path / f"{split}.csv"
    path.unlink()
    with pytest.raises(BadData, match="is missing") as caught:
        from_origin(task.origin)
    assert str(path) in str(caught.value)


def test_a_record_of_before_names_were_recorded_can_be_read(tmp_path: Path) -> None:
    task = made(tmp_path, "plain")
    assert from_origin({key: value for key, value in task.origin.items() if key != "name"}).name == "train"


# New data for a task that is learned


def test_examples_of_another_file_are_read_as_the_tasks_own_were(tmp_path: Path) -> None:
    task = made(tmp_path, "files")
    words = {"good": "yes", "bad": "no"}
    assert evaluation_examples(task.template, task.choices, tmp_path / "test.csv", "label", words) == list(
        task.examples["test"]
    )


def test_every_row_of_another_file_is_an_example(tmp_path: Path) -> None:
    path = write(tmp_path / "new.csv", labelled(7))
    examples = evaluation_examples("{text}\nMood:", ("bad", "good"), path, "label")
    assert [example.id for example in examples] == [f"new:{i + 2}" for i in range(7)]
    assert examples[0] == Example("text 0", "good", "\nMood:", ("bad", "good"), (), "new:2")


def test_answers_of_another_file_are_free_where_the_tasks_were(tmp_path: Path) -> None:
    path = write(tmp_path / "new.csv", labelled(7, ("anything", "at all")))
    examples = evaluation_examples("{text}", (), path, "label")
    assert [example.target for example in examples[:2]] == ["anything", "at all"]
    assert {example.choices for example in examples} == {()}


@pytest.mark.parametrize(
    ("template", "label", "words", "row", "message"),
    [
        ("{text}", "label", None, {"text": "t", "label": "awful"}, "'awful' is not among the labels"),
        ("{text}", "label", {"bad": "no"}, {"text": "t", "label": "awful"}, "'awful' is not among the label words"),
        ("{text}", "label", None, {"text": "t", "label": " "}, "is empty"),
        ("{text}", "verdict", None, {"text": "t", "label": "bad"}, "no column 'verdict'"),
        ("{title}", "label", None, {"text": "t", "label": "bad"}, "no column 'title'"),
    ],
)
def test_another_file_that_does_not_fit_the_task_is_refused_with_its_line(
    tmp_path: Path, template: str, label: str, words: dict[str, str] | None, row: dict[str, str], message: str
) -> None:
    path = write(tmp_path / "new.csv", [row])
    with pytest.raises(BadData, match=message) as caught:
        evaluation_examples(template, ("no", "yes") if words else LABELS, path, label, words)
    assert str(caught.value).startswith(f"{path}, line 2: ")
