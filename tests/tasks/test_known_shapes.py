"""Chats, instructions and multiple-choice questions are recognised, and shown as readers expect."""

import json
from pathlib import Path
from typing import Any

import pytest

from softprompt.tasks import Task, from_files
from softprompt.tasks.known_shapes import add_columns


def read(path: Path, rows: list[dict[str, Any]]) -> Task:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return from_files(path, dev=path, test=path)


@pytest.mark.parametrize(
    ("column", "role", "text", "names"),
    [("messages", "role", "content", ("user", "assistant")), ("conversations", "from", "value", ("human", "gpt"))],
)
def test_the_last_turn_of_a_chat_is_the_answer(
    tmp_path: Path, column: str, role: str, text: str, names: tuple[str, str]
) -> None:
    turns = [{role: names[i % 2], text: said} for i, said in enumerate(("hello", "yes?", "where is it", "on its way"))]
    task = read(tmp_path / "chat.jsonl", [{column: turns}, {column: turns[:2]}])
    first, second = task.examples["train"]
    assert first.source + first.cue == "User: hello\nAssistant: yes?\nUser: where is it\nAssistant:"
    assert (first.target, second.target, task.choices) == ("on its way", "yes?", ())


def test_an_instruction_is_shown_with_its_input(tmp_path: Path) -> None:
    rows = [
        {"instruction": "Translate.", "input": "Haus", "output": "house"},
        {"instruction": "Say hi.", "input": "", "output": "hi"},
    ]
    task = read(tmp_path / "alpaca.jsonl", rows)
    assert [e.source + e.cue for e in task.examples["train"]] == [
        "Translate.\n\nHaus\n\nResponse:",
        "Say hi.\n\nResponse:",
    ]
    assert [e.target for e in task.examples["train"]] == ["house", "hi"]


def test_a_request_without_its_answer_is_shown_too() -> None:
    """What `predict --data` reads has no output yet."""
    assert add_columns({"instruction": "Translate.", "input": "Haus"})["request"] == "Translate.\n\nHaus"


def test_prompts_and_completions_are_taken_as_they_are(tmp_path: Path) -> None:
    task = read(
        tmp_path / "pairs.jsonl", [{"prompt": "2 + 2 =", "completion": " 4"}, {"prompt": "a b", "completion": "c"}]
    )
    assert [(e.source, e.target) for e in task.examples["train"]] == [("2 + 2 =", "4"), ("a b", "c")]


@pytest.mark.parametrize(
    ("choices", "answer"),
    [
        (["red", "blue"], 1), (["red", "blue"], "B"), (["red", "blue"], "blue"), ({"A": "red", "B": "blue"}, "B"),
        ({"text": ["red", "blue"], "label": ["1", "2"]}, "2"),
    ],
)  # fmt: skip
def test_the_options_of_a_question_are_shown_and_the_answer_is_a_letter(
    tmp_path: Path, choices: Any, answer: Any
) -> None:
    rows = [{"question": f"what {i}?", "choices": choices, "answer": answer} for i in range(4)]
    rows += [{"question": f"and {i}?", "choices": ["x", "y", "z"], "answer": 0} for i in range(4)]
    task = read(tmp_path / "quiz.jsonl", rows)
    first = task.examples["train"][0]
    assert first.source + first.cue == "what 0?\nA. red\nB. blue\nAnswer:"
    assert (first.target, task.choices) == ("B", ("A", "B"))


def test_other_rows_stay_as_they_are() -> None:
    for row in (
        {"text": "a"},
        {"messages": "hello"},
        {"messages": "[1, 2]"},
        {"question": "a?", "answer": "b"},
        {"choices": "{"},
    ):
        assert add_columns(row) == row
