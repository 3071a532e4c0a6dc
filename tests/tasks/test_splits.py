"""A text stands in one split, labels keep their shares, and what makes a score doubtful is said."""

from collections import Counter
from pathlib import Path

from softprompt.tasks import from_files
from softprompt.tasks.files import from_origin
from softprompt.tasks.splits import draw_splits
from softprompt.tasks.task import SPLITS
from tests.data_files import write


def test_copies_of_a_text_stay_in_one_split_and_are_counted(tmp_path: Path) -> None:
    rows = [{"text": f"the parcel {i} is late", "label": "ab"[i % 2]} for i in range(40)] * 3
    rows[0]["label"] = "b"
    task = from_files(write(tmp_path / "data.csv", rows))
    texts = {split: {e.source for e in task.examples[split]} for split in SPLITS}
    assert not texts["train"] & (texts["dev"] | texts["test"])
    assert not texts["dev"] & texts["test"]
    assert [len(task.examples[split]) for split in SPLITS] == [96, 12, 12]
    (note,) = [note for note in task.notes if "repeated" in note]
    assert note.startswith("64 of 96 train texts are repeated") or "1 of them with another answer" in note


def test_every_split_has_its_share_of_each_label(tmp_path: Path) -> None:
    labels = ["a"] * 140 + ["b"] * 40 + ["c"] * 20
    rows = [{"text": f"t {i}", "label": label} for i, label in enumerate(labels)]
    for seed in range(5):
        task = from_files(write(tmp_path / "data.csv", rows), seed=seed)
        for split, share in (("dev", 0.1), ("test", 0.1), ("train", 0.8)):
            counts = Counter(e.target for e in task.examples[split])  # type: ignore[index]
            assert counts == {"a": round(140 * share), "b": round(40 * share), "c": round(20 * share)}


def test_a_split_with_one_answer_is_said(tmp_path: Path) -> None:
    rows = [{"text": f"t {i}", "label": "ab"[i % 2]} for i in range(20)]
    train, dev = write(tmp_path / "train.csv", rows), write(tmp_path / "dev.csv", rows[::2])
    notes = from_files(train, dev=dev, test=train).notes
    assert "all 10 dev rows have the answer 'a'" in notes


def test_texts_of_train_in_a_given_file_are_counted(tmp_path: Path) -> None:
    rows = [{"text": f"t {i}", "label": "ab"[i % 2]} for i in range(20)]
    train, test = write(tmp_path / "train.csv", rows[:16]), write(tmp_path / "test.csv", rows[12:])
    notes = from_files(train, test=test).notes
    assert any(note.endswith("of 8 test texts also stand in train; its score is too high") for note in notes)


def test_a_text_with_more_copies_than_a_split_has_rows_is_drawn_only_where_nothing_else_is_left() -> None:
    texts = ["x"] * 30 + [f"t {i}" for i in range(10)]
    drawn = draw_splits(texts, ["a"] * 40, {"dev": 0.1, "test": 0.1}, 0)
    assert [len(drawn[split]) for split in SPLITS] == [32, 4, 4]
    assert set(range(30)) <= set(drawn["train"])


def test_splits_of_0_1_0_are_drawn_again_as_they_were(tmp_path: Path) -> None:
    rows = [{"text": f"t {i}", "label": "ab"[i % 2]} for i in range(40)]
    path = write(tmp_path / "data.csv", rows)
    task = from_files(path)
    assert from_origin(task.origin).examples == task.examples
    old = dict(task.origin)
    del old["draw"]  # run.json of 0.1.0 does not name it
    again = from_origin(old)
    assert again.examples == from_files(path, draw=1).examples
    assert again.examples != task.examples
