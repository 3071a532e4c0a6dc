"""Recognise rows of chats, instructions and multiple-choice questions, and add columns that a template can show.

    messages, conversations      -> conversation, reply            chat turns; the assistant's last is the answer
    instruction, input, output   -> request                        the input may be empty
    question, choices, answer    -> question_with_choices, letter  the options are shown, the answer is a letter

The columns of the file stay as they are.
"""

import string
from collections.abc import Mapping
from typing import NamedTuple

from softprompt.tasks.chat import Chat, Turn
from softprompt.tasks.readers import parse_json
from softprompt.tasks.template import Template


class Shape(NamedTuple):
    """Columns that were added to rows of a known shape, and how they are read."""

    texts: tuple[str, ...]
    label: str
    template: str


CONVERSATION = "conversation"
"""Column of the turns before the answer."""
CHAT = Shape((CONVERSATION,), "reply", "{conversation}\nAssistant:")
REQUEST = Shape(("request",), "output", "{request}\n\nResponse:")
COMPLETION = Shape(("prompt",), "completion", "{prompt}")
QUIZ = Shape(("question_with_choices",), "letter", "{question_with_choices}\nAnswer:")
LETTERS = string.ascii_uppercase
ROLES = {"human": "user", "gpt": "assistant"}
"""Names of roles in ShareGPT's rows."""


def find_shape(columns: list[str]) -> Shape | None:
    """Return the known shape that rows with these columns have; None for any other table."""
    for shape in (CHAT, QUIZ, REQUEST, COMPLETION):
        if {*shape.texts, shape.label} <= set(columns):
            return shape
    return None


def add_columns(values: Mapping[str, str], chat: Chat | None = None) -> dict[str, str]:
    """Return a row with the columns of its shape added; a row of no known shape as it is.

    Conversations are written as `chat` says, else as "User: ...". Raises BadInput for turns that it cannot write.
    """
    made = dict(values)
    for name in ("messages", "conversations"):
        if turns := _turns(values.get(name, "")):
            said, reply = turns[:-1], turns[-1]
            if reply[0] != "assistant":  # a question that is still to be answered
                said, reply = turns, ("assistant", "")
            if said:
                made.setdefault(CONVERSATION, chat.write(said) if chat else _as_lines(said))
            if reply[1]:
                made.setdefault("reply", reply[1])
    if "instruction" in values:
        parts = [values["instruction"], values.get("input", "")]
        made.setdefault("request", "\n\n".join(part for part in parts if part.strip()))
    options = _options(values.get("choices", values.get("options", "")))
    question = values.get("question")
    if options and question:
        lines = [f"{letter}. {text}" for letter, (_, text) in zip(LETTERS, options, strict=False)]
        made.setdefault("question_with_choices", "\n".join([question, *lines]))
        answer = values.get("answer", values.get("answerKey", values.get("answer_idx", "")))
        if letter := _letter(answer, options):
            made.setdefault("letter", letter)
    return made


def read_text(form: Template, text: str, chat: Chat | None = None) -> dict[str, str]:
    """Read one text as a row of a template; where that shows a conversation, JSON turns or what a user says first.

    Raises BadInput for a text that the template cannot show.
    """
    if form.fields != [CONVERSATION]:
        return form.row(text)
    turns = _turns(text)
    if chat is not None:
        return {CONVERSATION: chat.write(turns or [("user", text)])}
    return {CONVERSATION: _as_lines(turns) if turns else text}


def _as_lines(turns: list[Turn]) -> str:
    return "\n".join(f"{role.capitalize()}: {text}" for role, text in turns)


def _turns(text: str) -> list[Turn]:
    """Read chat turns (role, text) out of JSON; none for anything else."""
    found = parse_json(text)
    if not isinstance(found, list) or not found or not all(isinstance(turn, dict) for turn in found):
        return []
    turns = []
    for turn in found:
        role, content = turn.get("role", turn.get("from")), turn.get("content", turn.get("value"))
        if not isinstance(role, str) or not isinstance(content, str):
            return []
        turns.append((ROLES.get(role, role), content))
    return turns


def _options(text: str) -> list[tuple[str, str]]:
    """Read options (label, text) out of JSON: a list of texts, or texts beside labels (ARC); none for anything else."""
    found = parse_json(text)
    if isinstance(found, dict) and isinstance(found.get("text"), list) and isinstance(found.get("label"), list):
        pairs = list(zip(map(str, found["label"]), found["text"], strict=False))
    elif isinstance(found, dict):
        pairs = [(str(label), option) for label, option in found.items()]
    elif isinstance(found, list):
        pairs = list(zip(LETTERS, found, strict=False))
    else:
        return []
    return pairs if 2 <= len(pairs) <= len(LETTERS) and all(isinstance(option, str) for _, option in pairs) else []


def _letter(answer: str, options: list[tuple[str, str]]) -> str:
    """Find the letter of the right option, which is named by its label, its index or its text; "" when it is none."""
    labels, texts = [label for label, _ in options], [text for _, text in options]
    if answer in texts:
        return LETTERS[texts.index(answer)]
    if answer in labels:
        return LETTERS[labels.index(answer)]
    if answer.isdigit() and int(answer) < len(options):
        return LETTERS[int(answer)]
    return ""
