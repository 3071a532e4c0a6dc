"""Conversations are written as a chat template writes them, and every verb reads them again so."""

import json
from pathlib import Path

import pytest

from softprompt.errors import BadData, BadInput
from softprompt.tasks import Template, evaluation_examples, from_files, from_origin
from softprompt.tasks.chat import Chat
from softprompt.tasks.known_shapes import read_text

CHAT = Chat(opening="<u>", reply="</u><a>", user="</a><u>", answer="</u><a>", system=("<s>", "</s><u>"))
FOLDED = CHAT.model_copy(update={"system": None})
SAID = [("user", "hello"), ("assistant", "yes?"), ("user", "where is it")]


def test_turns_are_written_in_their_pieces() -> None:
    assert CHAT.write(SAID) == "<u>hello</u><a>yes?</a><u>where is it"
    assert CHAT.write([("system", "Be kind."), *SAID[:1]]) == "<s>Be kind.</s><u>hello"
    assert FOLDED.write([("system", "Be kind."), *SAID[:1]]) == "<u>Be kind.\n\nhello"


@pytest.mark.parametrize("roles", [["assistant", "user"], ["user", "user"], ["user", "tool", "user"], ["system"]])
def test_turns_in_another_order_are_refused(roles: list[str]) -> None:
    with pytest.raises(BadInput, match="expected an optional system, then user and assistant in turn"):
        CHAT.write([(role, "text") for role in roles])


def test_braces_of_a_chat_template_are_no_columns() -> None:
    chat = CHAT.model_copy(update={"opening": "{kind}<u>"})
    form = Template(chat.frame("Text: {text}\nLabel:"))
    assert form.fields == ["text"]
    assert form.source({"text": "hello"}) + form.cue == "{kind}<u>Text: hello\nLabel:</u><a>"


def test_a_task_keeps_the_chat_it_was_written_with(tmp_path: Path) -> None:
    turns = [{"role": role, "content": text} for role, text in [*SAID, ("assistant", "on its way")]]
    path = tmp_path / "chat.jsonl"
    path.write_text(
        "".join(json.dumps({"messages": turns[at:]}) + "\n" for at in (0, 2))
        + json.dumps({"messages": [turns[0], {"role": "assistant", "content": "Hi."}]})
    )
    task = from_files(path, dev=path, test=path, chat=CHAT)
    whole = ["<u>hello</u><a>yes?</a><u>where is it</u><a>", "<u>where is it</u><a>", "<u>hello</u><a>"]
    assert [e.source + e.cue for e in task.examples["train"]] == whole
    again = from_origin(json.loads(json.dumps(task.origin)))
    assert again == task
    assert evaluation_examples(task.template, (), path, "reply", chat=task.chat) == list(task.examples["test"])


def test_rows_of_other_shapes_are_one_user_text(tmp_path: Path) -> None:
    path = tmp_path / "alpaca.jsonl"
    rows = [("Haus", "house"), ("Hund", "dog")]
    path.write_text("".join(json.dumps({"instruction": "Translate.", "input": a, "output": b}) + "\n" for a, b in rows))
    task = from_files(path, dev=path, test=path, chat=CHAT)
    assert [e.source + e.cue for e in task.examples["train"]] == [
        "<u>Translate.\n\nHaus</u><a>",
        "<u>Translate.\n\nHund</u><a>",
    ]
    assert from_origin(task.origin) == task


def test_a_single_text_is_what_the_user_says(tmp_path: Path) -> None:
    form = Template(CHAT.close("{conversation}"))
    turns = json.dumps([{"role": role, "content": text} for role, text in SAID])
    assert read_text(form, "hello", CHAT) == {"conversation": "<u>hello"}
    assert read_text(form, turns, CHAT) == {"conversation": CHAT.write(SAID)}
    assert read_text(Template("{conversation}\nAssistant:"), turns)["conversation"].startswith("User: hello\nAssistant")
    assert read_text(Template("{text}"), turns, CHAT) == {"text": turns}


def test_a_conversation_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    path = tmp_path / "chat.jsonl"
    turns = [{"role": role, "content": "text"} for role in ("user", "tool", "assistant")]
    path.write_text(json.dumps({"messages": turns}) + "\n")
    with pytest.raises(BadData, match=r"chat\.jsonl.*line 1: the turns before the answer are user, tool"):
        from_files(path, dev=path, test=path, chat=CHAT)
