"""Rows of labelled text, files of them, and what a task read."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from softprompt.tasks import Split, Task

LABELS = ("good", "bad")
LINES = ["text,label", *(f"{' '.join('abcdefgh'[: i % 7 + 1])} {w},{w}" for i in range(20) for w in ("red", "blue"))]
"""A CSV of forty rows, told apart by one word."""
Rows = Sequence[Mapping[str, str]]


def labelled(n: int, labels: Sequence[str] = LABELS, start: int = 0) -> list[dict[str, str]]:
    return [{"text": f"text {start + i}", "label": labels[i % len(labels)]} for i in range(n)]


def write(path: Path, rows: Rows) -> Path:
    """A CSV; the row of index i is on line i + 2."""
    path.parent.mkdir(exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return path


def sources(task: Task, split: Split) -> list[str]:
    return [example.source for example in task.examples[split]]
