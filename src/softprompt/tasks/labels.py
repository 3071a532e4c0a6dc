"""Read labels: choices or free text, numbers, and what is wrong with them."""

import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from softprompt.errors import BadData
from softprompt.tasks.columns import as_number
from softprompt.tasks.readers import Row, parse_json

MOST_CHOICES = 1000
"""More different labels than this are free text."""
MANY = 200
"""From so many choices on, it is said that ranking them takes time."""
MISSING = ("nan", "null", "none", "n/a")
"""Labels that may be a missing value written as text."""


class Answers(NamedTuple):
    """How a task is answered."""

    choices: tuple[str, ...]
    """None of them: free text."""
    metrics: tuple[str, ...]
    """Metrics where none are given; the first selects checkpoints."""
    notes: list[str]


def read_answers(
    path: Path, rows: Sequence[Row], label: str, words: Mapping[str, str] | None, open_ended: bool | None
) -> Answers:
    """Decide whether answers are choices or free text.

    Args:
        path: Training file, for messages.
        rows: Its rows.
        label: Column of the answer.
        words: Label in the file -> word that the model answers with.
        open_ended: True: free text; False: choices; None: choices where labels repeat.

    Raises:
        BadData: Labels that cannot be learned.
    """
    for row in rows:
        if isinstance(parse_json(row.values[label]), list):
            raise BadData(
                f"the label {row.values[label]!r} is a list. One prompt learns one answer a row: give each label a "
                "column of its own (yes or no) and train a prompt for each, or name another column with --label",
                path, row.line,
            )  # fmt: skip
    targets = [row.values[label].strip() for row in rows]
    counts = Counter(targets)
    labels = {words.get(target, target) for target in counts} if words else set(counts)
    if len(labels) == 1 and open_ended is not True:
        raise BadData(f"every training row has the label {next(iter(labels))!r}; expected at least two labels", path)
    repeats = len(counts) <= MOST_CHOICES and len(counts) * 2 <= len(targets)
    if words and not open_ended:
        return Answers(tuple(dict.fromkeys(words.values())), ("accuracy", "macro_f1"), [])
    if open_ended is None and _are_amounts(counts):
        note = f"the labels are {len(counts)} numbers, not classes: they are learned as text, and scored by correlation"
        return Answers((), ("pearson", "spearman"), [note])
    if open_ended or (open_ended is None and not repeats):
        return Answers((), ("exact_match", "token_f1"), [])
    return Answers(tuple(sorted(counts)), ("accuracy", "macro_f1"), _doubts(counts))


def _are_amounts(counts: Mapping[str, int]) -> bool:
    """Tell whether labels are real numbers; whole ones are classes."""
    numbers = [as_number(target) for target in counts]
    known = [number for number in numbers if number is not None]
    return len(known) == len(numbers) > 2 and any(not number.is_integer() for number in known)


def _doubts(counts: Mapping[str, int]) -> list[str]:
    """Say what may be wrong with a set of labels."""
    notes = []
    alike: dict[str, list[str]] = {}
    for target in sorted(counts):
        alike.setdefault(_plain(target), []).append(target)
    for group in alike.values():
        if len(group) > 1:
            named = ", ".join(f"{target!r} ({counts[target]})" for target in group)
            notes.append(f"labels that differ in case, width or invisible characters alone: {named}")
    if missing := [target for target in counts if target.lower() in MISSING]:
        named = ", ".join(f"{target!r} ({counts[target]} rows)" for target in missing)
        notes.append(f"{named} is learned as a class; leave those rows out if it is a missing value")
    if len(counts) > MANY:
        notes.append(f"{len(counts)} classes: each is scored for each text, which takes time")
    return notes


def _plain(text: str) -> str:
    """Return a text as readers see it: one width, one case, no invisible characters."""
    seen = (one for one in unicodedata.normalize("NFKC", text) if unicodedata.category(one) not in ("Cf", "Cc"))
    return " ".join("".join(seen).casefold().split())
