"""Tasks from files: what is found out, what is drawn, what is refused with file and line."""

import json
from pathlib import Path
from typing import Any

import pytest

from softprompt.errors import BadData, BadInput, UnknownName
from softprompt.tasks import SPLITS, Example, Split, from_files
from tests.data_files import LABELS, labelled, sources, write


def refused(path: Path, line: int | None, data: Path, **said: Any) -> str:
    """The message of the refusal, which must begin with the file and the line, or with the file and no line."""
    with pytest.raises(BadData) as caught:
        from_files(data, **said)
    message = str(caught.value)
    assert message.startswith(f"{path}: " if line is None else f"{path}, line {line}: "), message
    return message


# What is found out


@pytest.mark.parametrize(
    ("columns", "label"),
    [
        (("text", "label"), "label"),
        (("label", "text"), "label"),
        (("Sentence", "Sentiment", "id"), "Sentiment"),
        (("id", "question", "Answer"), "Answer"),
        (("team", "message", "hard"), "team"),
        (("label", "class", "text"), "label"),  # the commoner name
        (("mood", "verdict"), "verdict"),  # the second of two
        (("verdict", "intent"), "intent"),
    ],
)
def test_the_label_column_is_found(tmp_path: Path, columns: tuple[str, ...], label: str) -> None:
    rows = [{column: f"{column} {i % 2}" for column in columns} for i in range(10)]
    path = write(tmp_path / "data.csv", rows)
    task = from_files(path, dev=path, test=path)
    assert task.origin["label"] == label
    assert task.choices == (f"{label} 0", f"{label} 1")


@pytest.mark.parametrize("columns", [("id", "one", "two"), ("only",)])
def test_a_label_column_that_cannot_be_found_is_asked_for_with_the_columns(
    tmp_path: Path, columns: tuple[str, ...]
) -> None:
    path = write(tmp_path / "data.csv", [dict.fromkeys(columns, "x")] * 10)
    message = refused(path, None, path)
    assert ", ".join(columns) in message
    assert "--label COLUMN" in message


@pytest.mark.parametrize(
    ("columns", "template"),
    [
        (("text", "label"), "Text: {text}\nLabel:"),
        (("id", "premise", "hypothesis", "label"), "Premise: {premise}\nHypothesis: {hypothesis}\nLabel:"),
        (("colour", "shape", "size", "label"), "Colour: {colour}\nShape: {shape}\nSize: {size}\nLabel:"),
        (("Text", "Class"), "Text: {Text}\nClass:"),
        (("user_note", "final_verdict"), "User note: {user_note}\nFinal verdict:"),
    ],
)
def test_the_template_is_made_of_the_columns_that_hold_text(
    tmp_path: Path, columns: tuple[str, ...], template: str
) -> None:
    rows = [{column: f"{column} {i % 2}" for column in columns} for i in range(10)]
    path = write(tmp_path / "data.csv", rows)
    assert from_files(path, dev=path, test=path).template == template


def test_what_is_said_goes_before_what_is_found_out(tmp_path: Path) -> None:
    rows = [{"text": f"t{i}", "label": "never", "mood": LABELS[i % 2]} for i in range(10)]
    path = write(tmp_path / "data.csv", rows)
    task = from_files(path, label="mood", template="{text}?\nMood:", name="moods", metrics=["matthews", "accuracy"])
    assert (task.choices, task.name, task.metrics) == (("bad", "good"), "moods", ("matthews", "accuracy"))
    assert task.template == "{text}?\nMood:"


def test_an_example_has_its_source_cue_target_choices_and_place(tmp_path: Path) -> None:
    path = write(tmp_path / "mine.csv", labelled(4))
    other = write(tmp_path / "other.csv", labelled(4))
    task = from_files(path, dev=other, test=other, template="Text: {text}\nMood: ")
    assert task.name == "mine"
    assert task.examples["train"][1] == Example("Text: text 1", "bad", "\nMood:", ("bad", "good"), (), "mine:3")
    assert task.examples["dev"][0].id == "other:2"


def test_blanks_around_a_label_are_no_part_of_it(tmp_path: Path) -> None:
    rows = [{"text": f"t{i}", "label": f" {LABELS[i % 2]} "} for i in range(10)]
    assert from_files(write(tmp_path / "data.csv", rows)).choices == ("bad", "good")


# Splits


def test_each_split_is_its_own_file_where_there_is_one(tmp_path: Path) -> None:
    train, dev, test = (write(tmp_path / f"{s}.csv", labelled(4 + i, start=10 * i)) for i, s in enumerate(SPLITS))
    task = from_files(train, dev=dev, test=test, template="{text}")
    assert {split: sources(task, split) for split in SPLITS} == {
        split: [f"text {10 * i + k}" for k in range(4 + i)] for i, split in enumerate(SPLITS)
    }


def test_a_missing_file_is_a_share_of_train_and_the_other_is_left_alone(tmp_path: Path) -> None:
    train, dev = write(tmp_path / "train.csv", labelled(20)), write(tmp_path / "dev.csv", labelled(6, start=100))
    task = from_files(train, dev=dev, template="{text}", fractions=(0.1, 0.25))
    assert sources(task, "dev") == [f"text {100 + i}" for i in range(6)]
    assert len(sources(task, "test")) == 5
    assert sorted(sources(task, "train") + sources(task, "test")) == sorted(f"text {i}" for i in range(20))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    ("n", "fractions", "sizes"),
    [
        (100, (0.1, 0.1), (80, 10, 10)),
        (100, (0.2, 0.3), (50, 20, 30)),
        (10, (0.01, 0.01), (8, 1, 1)),
        (37, (0.1, 0.2), (26, 4, 7)),
    ],
)
def test_drawn_splits_are_disjoint_cover_every_row_and_have_their_sizes(
    tmp_path: Path, n: int, fractions: tuple[float, float], sizes: tuple[int, int, int], seed: int
) -> None:
    task = from_files(write(tmp_path / "data.csv", labelled(n)), template="{text}", fractions=fractions, seed=seed)
    parts = [sources(task, split) for split in SPLITS]
    assert tuple(map(len, parts)) == sizes
    assert sorted(source for part in parts for source in part) == sorted(f"text {i}" for i in range(n))


def test_rows_of_a_drawn_split_keep_the_order_of_the_file(tmp_path: Path) -> None:
    task = from_files(write(tmp_path / "data.csv", labelled(50)), template="{text}")
    for split in SPLITS:
        places = [int(source.removeprefix("text ")) for source in sources(task, split)]
        assert places == sorted(places)


def test_the_same_seed_draws_the_same_splits_and_another_seed_others(tmp_path: Path) -> None:
    path = write(tmp_path / "data.csv", labelled(100))
    one, same, other = (from_files(path, seed=seed).examples for seed in (1, 1, 2))
    assert one == same
    assert one["dev"] != other["dev"]
    assert one["test"] != other["test"]


@pytest.mark.parametrize(("n", "fractions"), [(1, (0.1, 0.1)), (2, (0.1, 0.1)), (4, (0.4, 0.4))])
def test_too_few_rows_to_draw_from_are_refused(tmp_path: Path, n: int, fractions: tuple[float, float]) -> None:
    path = write(tmp_path / "data.csv", labelled(n))
    with pytest.raises(BadInput, match=f"{n} rows are too few"):
        from_files(path, fractions=fractions)


def test_one_row_is_too_few_to_draw_test_from_beside_a_dev_file(tmp_path: Path) -> None:
    path, dev = write(tmp_path / "data.csv", labelled(1)), write(tmp_path / "dev.csv", labelled(4))
    with pytest.raises(BadInput, match="1 rows are too few"):
        from_files(path, dev=dev)


@pytest.mark.parametrize("fractions", [(0.0, 0.1), (0.1, 0.5), (-0.1, 0.1), (0.1, 1.0), (10.0, 10.0)])
def test_fractions_that_leave_nothing_are_refused(tmp_path: Path, fractions: tuple[float, float]) -> None:
    with pytest.raises(BadInput, match=r"between 0 and 0\.5"):
        from_files(write(tmp_path / "data.csv", labelled(20)), fractions=fractions)


# Labels, words and choices


def test_choices_are_the_labels_in_alphabetical_order_whatever_the_order_of_the_rows(tmp_path: Path) -> None:
    one = from_files(write(tmp_path / "one.csv", labelled(20, ("c", "a", "b"))))
    other = from_files(write(tmp_path / "other.csv", labelled(20, ("b", "c", "a"))))
    assert one.choices == other.choices == ("a", "b", "c")


def test_label_words_take_the_place_of_labels_in_the_order_given(tmp_path: Path) -> None:
    path = write(tmp_path / "data.csv", labelled(20, ("0", "1")))
    task = from_files(path, template="{text}", words={"1": "positive", "0": "negative"})
    assert task.choices == ("positive", "negative")
    for split in SPLITS:
        for example in task.examples[split]:
            place = int(example.source.removeprefix("text "))
            assert example.target == ("negative", "positive")[place % 2]
            assert example.choices == task.choices


def test_two_labels_may_share_a_word(tmp_path: Path) -> None:
    path = write(tmp_path / "data.csv", labelled(30, ("1", "2", "5")))
    task = from_files(path, words={"1": "bad", "2": "bad", "5": "good"})
    assert task.choices == ("bad", "good")


def test_a_word_for_a_label_that_does_not_occur_is_a_choice_all_the_same(tmp_path: Path) -> None:
    path = write(tmp_path / "data.csv", labelled(20))
    assert from_files(path, words={"good": "yes", "bad": "no", "unsure": "maybe"}).choices == ("yes", "no", "maybe")


@pytest.mark.parametrize("split", SPLITS)
def test_a_label_outside_the_label_words_is_named_with_its_line(tmp_path: Path, split: Split) -> None:
    files = {s: write(tmp_path / f"{s}.csv", labelled(6)) for s in SPLITS}
    rows = labelled(6)
    rows[4]["label"] = "awful"
    write(files[split], rows)
    message = refused(
        files[split], 6, files["train"], dev=files["dev"], test=files["test"], words={"good": "yes", "bad": "no"}
    )
    assert "'awful'" in message
    assert "good, bad" in message


@pytest.mark.parametrize("split", ["dev", "test"])
def test_a_label_that_train_does_not_have_is_named_with_its_line(tmp_path: Path, split: Split) -> None:
    files = {s: write(tmp_path / f"{s}.csv", labelled(6)) for s in SPLITS}
    rows = labelled(6)
    rows[3]["label"] = "awful"
    write(files[split], rows)
    message = refused(files[split], 5, files["train"], dev=files["dev"], test=files["test"])
    assert "'awful'" in message
    assert "bad, good" in message


@pytest.mark.parametrize("words", [None, {"good": "yes", "bad": "no"}])
@pytest.mark.parametrize("empty", ["", "  "])
@pytest.mark.parametrize("split", SPLITS)
def test_an_empty_label_is_named_with_its_line(
    tmp_path: Path, split: Split, empty: str, words: dict[str, str] | None
) -> None:
    files = {s: write(tmp_path / f"{s}.csv", labelled(6)) for s in SPLITS}
    rows = labelled(6)
    rows[2]["label"] = empty
    write(files[split], rows)
    message = refused(files[split], 4, files["train"], dev=files["dev"], test=files["test"], words=words)
    assert "the label (column 'label') is empty" in message


@pytest.mark.parametrize(
    ("labels", "words"),
    [(("good",), None), (("good",), {"good": "yes", "bad": "no"}), (LABELS, {"good": "yes", "bad": "yes"})],
    ids=["one label", "one label, two words", "two labels, one word"],
)
@pytest.mark.parametrize("open_ended", [None, False])
def test_one_class_only_is_refused(
    tmp_path: Path, labels: tuple[str, ...], words: dict[str, str] | None, open_ended: bool | None
) -> None:
    path = write(tmp_path / "data.csv", labelled(20, labels))
    message = refused(path, None, path, words=words, open_ended=open_ended)
    assert f"every training row has the label {words['good'] if words else 'good'!r}" in message


def test_one_answer_only_is_allowed_where_answers_are_free(tmp_path: Path) -> None:
    task = from_files(write(tmp_path / "data.csv", labelled(20, ("good",))), open_ended=True)
    assert task.choices == ()


@pytest.mark.parametrize("column", ["text", "label"])
def test_a_column_that_a_row_lacks_is_named_with_its_line(tmp_path: Path, column: str) -> None:
    path = tmp_path / "data.jsonl"
    rows = labelled(10)
    del rows[6][column]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert f"no column {column!r}" in refused(path, 7, path, template="{text}", label="label")


@pytest.mark.parametrize("said", [{"label": "verdict"}, {"template": "{verdict} {text}"}], ids=["label", "template"])
def test_a_column_that_no_row_has_is_answered_with_the_columns_there_are(tmp_path: Path, said: dict[str, str]) -> None:
    path = write(tmp_path / "data.csv", labelled(10))
    message = refused(path, 2, path, **said)
    assert "no column 'verdict'" in message
    assert "text, label" in message


def test_columns_are_looked_for_in_every_file(tmp_path: Path) -> None:
    train = write(tmp_path / "train.csv", labelled(10))
    dev = write(tmp_path / "dev.csv", [{"sentence": "t", "label": "good"}])
    assert "no column 'text'" in refused(dev, 2, train, dev=dev)


@pytest.mark.parametrize("name", ["text.__class__", "0", "text[0]"])
def test_what_stands_in_braces_is_looked_up_and_never_evaluated(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / "data.csv", labelled(10))
    assert f"no column {name!r}" in refused(path, 2, path, template=f"{{{name}}}")


def test_a_template_that_shows_the_label_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "data.csv", labelled(10))
    with pytest.raises(BadInput, match="shows the label"):
        from_files(path, template="Text: {text}\nLabel: {label}")


# Fixed choices or free text


@pytest.mark.parametrize(
    ("labels", "n", "fixed"),
    [
        (2, 4, True),
        (8, 16, True),
        (9, 16, False),  # fewer than two rows a label
        (16, 16, False),
        (200, 800, True),
        (201, 800, True),
        (1001, 4004, False),
    ],
)
def test_targets_are_choices_where_they_are_few_and_repeat(tmp_path: Path, labels: int, n: int, fixed: bool) -> None:
    other = write(tmp_path / "other.csv", [{"text": "t", "label": "0"}])
    path = write(tmp_path / "data.csv", labelled(n, [str(i) for i in range(labels)]))
    task = from_files(path, dev=other, test=other)
    assert len(task.choices) == (labels if fixed else 0)
    assert task.metrics == (("accuracy", "macro_f1") if fixed else ("exact_match", "token_f1"))
    assert {example.choices for example in task.examples["train"]} == {task.choices}


def test_free_answers_of_dev_need_not_occur_in_train(tmp_path: Path) -> None:
    rows = [{"question": f"q{i}", "answer": f"a{i}"} for i in range(20)]
    task = from_files(write(tmp_path / "data.csv", rows))
    answers = [example.target for split in SPLITS for example in task.examples[split]]
    assert sorted(answers) == sorted(f"a{i}" for i in range(20))


@pytest.mark.parametrize(("labels", "open_ended"), [(2, True), (20, False)])
def test_what_is_said_of_the_answers_goes_before_what_they_look_like(
    tmp_path: Path, labels: int, open_ended: bool
) -> None:
    other = write(tmp_path / "other.csv", [{"text": "t", "label": "0"}])
    path = write(tmp_path / "data.csv", labelled(20, [str(i) for i in range(labels)]))
    task = from_files(path, dev=other, test=other, open_ended=open_ended)
    assert len(task.choices) == (0 if open_ended else labels)


def test_label_words_mean_choices_however_rarely_labels_repeat(tmp_path: Path) -> None:
    other = write(tmp_path / "other.csv", labelled(1))
    path = write(tmp_path / "data.csv", labelled(3))
    assert from_files(path, dev=other, test=other, words={"good": "yes", "bad": "no"}).choices == ("yes", "no")


def test_an_unknown_metric_is_refused_when_the_task_is_read(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="'accuracy'"):
        from_files(write(tmp_path / "data.csv", labelled(20)), metrics=["macro_f1", "acuracy"])


def test_a_misspelt_column_is_answered_with_the_one_that_was_meant(tmp_path: Path) -> None:
    path = write(tmp_path / "data.csv", labelled(20))
    with pytest.raises(BadData, match=r"no column 'lable'; .*Did you mean 'label'\?"):
        from_files(path, label="lable")
