"""Find out what the columns of a data file are: the label, the texts that a template shows, and what is left out."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from softprompt.errors import BadData
from softprompt.tasks.readers import Row

LABEL_COLUMNS = ("label", "labels", "target", "answer", "class", "category", "intent", "team", "sentiment", "output")
TEXT_COLUMNS = (
    "text", "sentence", "sentence1", "sentence2", "premise", "hypothesis", "question", "question1", "question2",
    "context", "passage", "message", "review", "title", "subject", "content", "body", "document", "source", "input",
    "utterance", "comment", "query",
)  # fmt: skip
"""Columns that are text by their name, however short and often repeated."""
ID = re.compile(r"(^|_)(id|idx|index|uuid|guid|key|hash)$", re.IGNORECASE)
DATE, ADDRESS = re.compile(r"\d{4}-\d\d-\d\d"), re.compile(r"https?://\S+$")
SHORT = 60
"""Characters of a label, at most, where its column is to be found by its content."""


class ColumnContent(NamedTuple):
    """What is in a column; missing values are not among `values`."""

    name: str
    values: list[str]
    missing: int

    @property
    def distinct(self) -> int:
        return len(set(self.values))

    @property
    def repeats(self) -> bool:
        """Whether its values are those of a label: at least two, half as many as rows or fewer, and short."""
        return 2 <= self.distinct <= len(self.values) // 2 and max(map(len, self.values)) <= SHORT

    @property
    def words(self) -> float:
        """Words of a value, on average."""
        return sum(len(value.split()) for value in self.values) / max(len(self.values), 1)

    def all_match(self, pattern: re.Pattern[str]) -> bool:
        return all(pattern.match(value.strip()) for value in self.values)

    def is_number(self) -> bool:
        return all(as_number(value) is not None for value in self.values)


class Guess(NamedTuple):
    """The columns that a task reads."""

    label: str
    texts: list[str]
    left_out: dict[str, str]
    """Why a column is not read, by its name."""

    def template(self) -> str:
        """Write the template: each text under its name, then the label's name as the cue."""
        lines = [f"{_title(name)}: {{{name}}}" for name in self.texts]
        return "\n".join([*lines, f"{_title(self.label)}:"])

    def note(self) -> str:
        """Say in a sentence what was found."""
        left = ", ".join(f"{name} ({why})" for name, why in self.left_out.items())
        texts = ", ".join(self.texts)
        return f"columns found: text {texts}; label {self.label}" + (f"; left out: {left}" if left else "")


def list_columns(rows: Sequence[Row]) -> list[str]:
    """List the columns that any row has, in their order."""
    return list(dict.fromkeys(column for row in rows for column in row.values))


def guess_columns(path: Path, rows: Sequence[Row], label: str | None) -> Guess:
    """Choose the columns by their content; `label` is given or found. Raises BadData where no label can be found."""
    columns = [_column(name, rows) for name in list_columns(rows)]
    label = label or _find_label(path, columns)
    labels = [row.values.get(label, "").strip() for row in rows]
    others = [column for column in columns if column.name != label]
    left_out = {column.name: why for column in others if (why := _why_no_text(column, rows, labels))}
    texts = [column.name for column in others if column.name not in left_out]
    if not texts:  # then what has a text's name, or whatever there is
        named = [column.name for column in others if column.name.lower() in TEXT_COLUMNS]
        texts = named or [column.name for column in others]
        left_out = {name: why for name, why in left_out.items() if name not in texts}
    return Guess(label, texts, left_out)


def _column(name: str, rows: Sequence[Row]) -> ColumnContent:
    values = [row.values[name] for row in rows if name in row.values]
    return ColumnContent(name, values, len(rows) - len(values))


def _find_label(path: Path, columns: Sequence[ColumnContent]) -> str:
    """Find the label by its name, else as the column of fewest values that repeat, wherever it stands."""
    for name in LABEL_COLUMNS:
        for column in columns:
            if column.name.lower() == name:
                return column.name
    repeating = [column for column in columns if column.repeats and not column.missing]
    repeating.sort(key=lambda column: column.distinct)
    if len(columns) == 2 and (not repeating or all(column.distinct == repeating[0].distinct for column in columns)):
        return columns[1].name
    if repeating and (len(repeating) == 1 or repeating[0].distinct < repeating[1].distinct):
        return repeating[0].name
    names = ", ".join(column.name for column in columns)
    raise BadData(f"has the columns {names}; say which one is the label: --label COLUMN", path)


def _why_no_text(column: ColumnContent, rows: Sequence[Row], labels: Sequence[str]) -> str:
    """Say why a column is not shown; "" for one that is text."""
    if column.missing:
        return f"missing in {column.missing} of {len(rows)} rows"
    if column.distinct == 1 and len(rows) > 1:
        return "the same in all rows"
    pairs = set(zip((value.strip() for value in column.values), labels, strict=True))
    if column.distinct == len(pairs) == len(set(labels)):
        return "a copy of the label"
    if column.name.lower() in TEXT_COLUMNS:
        return ""
    if column.is_number():
        return "numbers"
    if column.all_match(DATE):
        return "dates"
    if column.all_match(ADDRESS):
        return "addresses"
    if column.words <= 1 and (ID.search(column.name) or all(any(map(str.isdigit, value)) for value in column.values)):
        return "ids"
    if column.repeats and column.words < 3 and column.distinct <= max(10, len(rows) // 20):
        return "few values that repeat"
    return ""


def as_number(text: str) -> float | None:
    """Read a number; None for anything else, and for what is not finite."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if abs(number) < float("inf") else None


def _title(name: str) -> str:
    return name.replace("_", " ").capitalize()
