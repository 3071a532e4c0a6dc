"""Where the rows of published tasks come from: draws, the hub, folders, and what is refused."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import datasets
import pytest

from softprompt.errors import BadData, BadInput
from softprompt.tasks import SPLITS
from softprompt.tasks.published.catalogue import find, load_split
from softprompt.tasks.registry import get_task, task_again
from tests.data_files import sources
from tests.published import ROWS, Rows, folder_of, numbered, rte, write_rows

# Splits


def test_test_is_never_drawn_from(tmp_path: Path) -> None:
    task = get_task("glue/rte", data_dir=rte(tmp_path))
    assert [len(task.examples[split]) for split in SPLITS] == [36, 4, 10]
    assert sources(task, "test") == [f"Premise: one {i}\nHypothesis: two {i}" for i in range(40, 50)]
    assert not {*sources(task, "train")} & {*sources(task, "dev")}


def test_draws_do_not_depend_on_the_order_of_rows(tmp_path: Path) -> None:
    task = get_task("glue/rte", data_dir=rte(tmp_path / "a"), limit=12)
    write_rows(rte(tmp_path / "b") / "glue/rte/train.jsonl", numbered(40)[::-1])
    again = get_task("glue/rte", data_dir=tmp_path / "b", limit=12)
    other = get_task("glue/rte", data_dir=tmp_path / "b", limit=12, seed=1)
    for split in SPLITS:
        assert sources(again, split) == sources(task, split)
    assert sources(other, "train") != sources(task, "train")
    assert [len(task.examples[split]) for split in SPLITS] == [12, 4, 10]


def test_a_passage_is_not_torn_apart(tmp_path: Path) -> None:
    rows = [{"question": f"q {i}", "passage": f"passage {i // 4}", "label": i % 2, "idx": i} for i in range(80)]
    data_dir = folder_of(tmp_path, find("boolq"), rows)
    task = get_task("boolq", data_dir=data_dir)
    passages = [{source.split("Passage: ")[1] for source in sources(task, split)} for split in ("train", "dev")]
    assert not passages[0] & passages[1]
    assert all(passages)


def test_validation_selects_where_test_is_public(tmp_path: Path) -> None:
    entry = find("paws")
    for name in ("train", "validation", "test"):
        write_rows(tmp_path / f"others/paws/{name}.jsonl", [{**row, "sentence1": name} for row in ROWS[entry.name]])
    task = get_task("paws", data_dir=tmp_path)
    for split, name in zip(SPLITS, ("train", "validation", "test"), strict=True):
        assert all(name in source for source in sources(task, split))


# The hub


def test_the_hub_is_asked_for_the_split_and_the_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def load_dataset(**call: Any) -> Any:
        calls.append(call)
        return datasets.Dataset.from_list(list(numbered(40)))

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    task = get_task("glue/rte", limit=5)
    asked = {"path": "nyu-mll/glue", "name": "rte", "streaming": False}
    assert calls == [{**asked, "split": "train"}, {**asked, "split": "validation"}]
    assert [len(task.examples[split]) for split in SPLITS] == [5, 4, 5]
    assert task_again(json.loads(json.dumps(task.origin))) == task


def test_a_large_split_is_not_read_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    read: Counter[str] = Counter()

    def rows(split: str) -> Any:
        for i in range(560_000):
            read[split] += 1
            yield {"text": f"review {i}", "label": i % 2}

    def load_dataset(**call: Any) -> Any:
        if not call["streaming"]:
            return datasets.Dataset.from_list([{"text": f"test {i}", "label": 0} for i in range(30)])
        return datasets.IterableDataset.from_generator(rows, gen_kwargs={"split": call["split"]})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    task = get_task("yelp", limit=20)
    assert [len(task.examples[split]) for split in SPLITS] == [20, 4, 20]
    assert 0 < read["train"] < 11_000


def test_a_hub_that_does_not_answer_names_the_local_layout(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(**call: Any) -> Any:
        raise ConnectionError("Couldn't reach the Hub\nmore")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(BadInput) as caught:
        get_task("glue/rte")
    assert str(caught.value) == (
        "glue/rte: the hub's dataset nyu-mll/glue rte train cannot be read (Couldn't reach the Hub). Without the hub, "
        "give --data-dir DATA_DIR with DATA_DIR/glue/rte/{train,validation}.parquet (or .jsonl, .csv, .tsv) with the "
        "columns sentence1, sentence2, label."
    )


# Local files


@pytest.mark.parametrize("ending", [".tsv", ".csv", ".jsonl", ".parquet"])
def test_every_kind_of_file_is_read(tmp_path: Path, ending: str) -> None:
    assert get_task("glue/rte", data_dir=rte(tmp_path, ending=ending)).choices == ("yes", "no")


def test_shards_are_read_in_order(tmp_path: Path) -> None:
    folder = rte(tmp_path) / "glue/rte"
    (folder / "validation.jsonl").unlink()
    for i in range(2):
        write_rows(folder / f"validation-0000{i}-of-00002.parquet", [numbered(2)[i]])
    assert [e.source[9:14] for e in load_split(find("glue/rte"), "test", tmp_path)] == ["one 0", "one 1"]


def test_class_names_and_numbers_are_the_same(tmp_path: Path) -> None:
    rows = [{**row, "label": ("entailment", "not_entailment")[row["label"]]} for row in numbered(40)]
    named = write_rows(rte(tmp_path / "b") / "glue/rte/train.jsonl", rows).parents[2]
    one, other = (get_task("glue/rte", data_dir=folder) for folder in (rte(tmp_path / "a"), named))
    assert one.examples == other.examples


def refusal(tmp_path: Path, rows: Rows) -> str:
    path = write_rows(rte(tmp_path) / "glue/rte/train.jsonl", [*numbered(3), *rows])
    with pytest.raises(BadData) as caught:
        get_task("glue/rte", data_dir=tmp_path)
    assert str(caught.value).startswith(f"{path}, line 4: ")
    return str(caught.value).removeprefix(f"{path}, line 4: ")


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    assert refusal(tmp_path, [{"premise": "a", "sentence2": "b", "label": 0}]) == (
        "no column 'sentence1' for glue/rte; the columns are premise, sentence2, label; "
        "expected sentence1, sentence2, label"
    )


@pytest.mark.parametrize("label", [-1, ""])
def test_a_hidden_label_is_named(tmp_path: Path, label: object) -> None:
    assert "no label (column 'label'" in refusal(tmp_path, [{**numbered(1)[0], "label": label}])


@pytest.mark.parametrize("label", [2, "neutral"])
def test_an_unknown_label_is_named(tmp_path: Path, label: object) -> None:
    said = f"the label {str(label)!r} (column 'label') is none of entailment, not_entailment or 0 to 1"
    assert refusal(tmp_path, [{**numbered(1)[0], "label": label}]) == said


@pytest.mark.parametrize(
    ("name", "changed", "said"),
    [
        ("glue/stsb", {"label": 7.5}, "the score '7.5' (column 'label') is not a number from 0 to 5"),
        ("glue/stsb", {"label": "nan"}, "the score 'nan' (column 'label') is not a number from 0 to 5"),
        ("glue/stsb", {"label": -1.0}, "no label (column 'label' is '-1')"),
        ("superglue/copa", {"question": "why"}, "'why' (column 'question') is neither cause nor effect"),
        ("superglue/wsc", {"span1_index": 40}, "the span 'Sue' at word 40 is outside the text of 10 words"),
        ("superglue/record", {"entities": "Berg"}, "the column 'entities' is not a list of texts: 'Berg'"),
        ("superglue/record", {"answers": []}, "no label (column 'answers' is '[]')"),
        ("mrqa/nq", {"answers": "1871"}, "the column 'answers' is not a list of texts: '1871'"),
        ("mrqa/squad", {"answers": {"texts": ["1871"]}}, "the column 'answers' is not a list of texts"),
    ],
)
def test_a_value_that_does_not_fit_is_named(tmp_path: Path, name: str, changed: dict[str, Any], said: str) -> None:
    data_dir = folder_of(tmp_path, find(name), [{**ROWS[name][0], **changed}], ".jsonl")
    with pytest.raises(BadData) as caught:
        load_split(find(name), "test", data_dir)
    path = data_dir / name / "validation.jsonl"
    assert str(caught.value).startswith(f"{path}, line 1: {said}")


def test_an_answer_may_look_like_a_hidden_label(tmp_path: Path) -> None:
    rows = [{**row, "answers": ["-1"]} for row in ROWS["mrqa/nq"]]
    assert load_split(find("nq"), "test", folder_of(tmp_path, find("nq"), rows))[0].target == "-1"


def test_undecided_pairs_are_left_out(tmp_path: Path) -> None:
    assert len(load_split(find("snli"), "test", folder_of(tmp_path, find("snli"), ROWS["others/snli"]))) == 2


def test_an_empty_split_is_refused(tmp_path: Path) -> None:
    (rte(tmp_path) / "glue/rte/validation.jsonl").write_text("")
    with pytest.raises(BadData, match=r"validation\.jsonl: has no rows"):
        get_task("glue/rte", data_dir=tmp_path)


def test_a_split_of_undecided_pairs_alone_is_refused(tmp_path: Path) -> None:
    folder_of(tmp_path, find("snli"), ROWS["others/snli"][2:])
    with pytest.raises(BadInput, match="others/snli: the split train is empty"):
        get_task("snli", data_dir=tmp_path)


def test_a_missing_file_is_asked_for(tmp_path: Path) -> None:
    (rte(tmp_path) / "glue/rte/validation.jsonl").unlink()
    with pytest.raises(BadData, match=r"no file of the split 'validation' \(there: train\.jsonl\); expected DATA_DIR"):
        get_task("glue/rte", data_dir=tmp_path)
    with pytest.raises(BadData, match="there is no such folder"):
        get_task("glue/rte", data_dir=tmp_path / "none")


def test_a_changed_file_is_not_gone_on_with(tmp_path: Path) -> None:
    task = get_task("glue/rte", data_dir=rte(tmp_path))
    path = write_rows(tmp_path / "glue/rte/train.jsonl", numbered(41))
    with pytest.raises(BadData, match="not what the run began with") as caught:
        task_again(task.origin)
    assert str(path) in str(caught.value)
    with pytest.raises(BadInput, match="began with version 0 of glue/rte"):
        task_again({**task.origin, "version": "0"})
