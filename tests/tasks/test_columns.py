"""What the columns of a file are is found in what stands in them, and said."""

from pathlib import Path

import pytest

from softprompt.errors import BadData
from softprompt.tasks import from_files
from softprompt.tasks.columns import guess_columns, list_columns
from softprompt.tasks.readers import Row, read_rows
from tests.data_files import write

LABELS = ("good", "bad", "neither")


def table(n: int = 30, **columns: str) -> list[dict[str, str]]:
    """Rows whose columns are format strings of the row's number `i` and its label."""
    return [{k: v.format(i=i, label=LABELS[i % 3], n=i % 3, x=i / 7) for k, v in columns.items()} for i in range(n)]


def guessed(rows: list[dict[str, str]], label: str | None = None) -> tuple[str, str, dict[str, str]]:
    found = guess_columns(Path("data.csv"), [Row(i, row) for i, row in enumerate(rows, 2)], label)
    return found.label, found.template(), found.left_out


def test_a_known_name_does_not_make_the_others_vanish() -> None:
    rows = table(id="{i}", comment_text="the parcel {i} is late again", title="t{i}", label="{label}")
    assert guessed(rows) == (
        "label", "Comment text: {comment_text}\nTitle: {title}\nLabel:", {"id": "numbers"},
    )  # fmt: skip


def test_what_is_no_text_is_left_out_and_why_is_said() -> None:
    rows = table(
        ticket_id="a{i}f", note="the parcel {i} is late", amount="{x}", day="2026-01-{i:0>2}", link="https://x.org/{i}",
        label_text="a {label} one", channel="mail", stars="{n}", label="{label}",
    )  # fmt: skip
    for i, row in enumerate(rows):
        row["channel"] = ("mail", "web", "phone")[(i // 2) % 3]
        row["stars"] = str(i % 5)
    del rows[3]["link"]
    label, template, left_out = guessed(rows)
    assert (label, template) == ("label", "Note: {note}\nLabel:")
    assert left_out == {
        "ticket_id": "ids", "amount": "numbers", "day": "dates", "link": "missing in 1 of 30 rows",
        "label_text": "a copy of the label", "channel": "few values that repeat", "stars": "numbers",
    }  # fmt: skip


@pytest.mark.parametrize("first", [True, False])
def test_a_label_without_a_known_name_is_the_column_of_fewest_values_wherever_it_stands(first: bool) -> None:
    columns = {"verdict": "{label}", "remark": "the parcel {i} is late"}
    rows = table(**(columns if first else dict(reversed(columns.items()))))
    assert guessed(rows)[:2] == ("verdict", "Remark: {remark}\nVerdict:")
    rows = table(remark="the parcel {i} is late", mood="{label}", place="Rome {n}")
    with pytest.raises(BadData, match=r"remark, mood, place; say which one is the label"):
        guessed(rows)
    assert guessed(rows, "mood")[0] == "mood"


def test_two_columns_of_free_text_are_a_question_and_its_answer() -> None:
    assert guessed(table(asked="what is {i}", said="it is {i}"))[:2] == ("said", "Asked: {asked}\nSaid:")


def test_what_was_found_is_a_note_of_the_task_and_what_is_given_is_not(tmp_path: Path) -> None:
    rows = table(id="{i}", comment_text="the parcel {i} is late again", title="t{i}", label="{label}")
    path = write(tmp_path / "data.csv", rows)
    assert from_files(path).notes == ("columns found: text comment_text, title; label label; left out: id (numbers)",)
    assert from_files(path, label="label", template="{title}").notes == ()
    assert list_columns(read_rows(path)) == ["id", "comment_text", "title", "label"]


def test_a_header_of_any_words_works_in_a_guessed_template(tmp_path: Path) -> None:
    rows = table(**{"Q1: what happened?": "the parcel {i} is late", "label": "{label}"})
    task = from_files(write(tmp_path / "data.csv", rows))
    assert task.template == "Q1: what happened?: {Q1: what happened?}\nLabel:"
    assert task.examples["train"][0].source.startswith("Q1: what happened?: the parcel")
