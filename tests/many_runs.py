"""What tests of sweeps, comparisons and tables share: settings of four steps, data, and watchers."""

import json
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.published import write_rows

SETTINGS = {"steps": 4, "batch": 4, "evaluate_every": 2, "length": 2, "pool": None}
WORDS = ["the parcel is late", "my invoice wrong", "how do i log in", "very good", "really bad"]


def rows(n: int, classes: int, columns: tuple[str, str]) -> list[dict[str, Any]]:
    return [
        {columns[0]: f"{WORDS[i % 5]} {'red ' * (i % 7)}", columns[1]: f"{WORDS[i % 3]} {i}", "label": i % classes,
         "idx": i}
        for i in range(n)
    ]  # fmt: skip


def data_folder(root: Path) -> Path:
    for task, classes, columns in (
        ("glue/rte", 2, ("sentence1", "sentence2")), ("superglue/cb", 3, ("premise", "hypothesis")),
        ("superglue/boolq", 2, ("question", "passage")),
    ):  # fmt: skip
        write_rows(root / task / "train.jsonl", rows(40, classes, columns))
        write_rows(root / task / "validation.jsonl", rows(52, classes, columns)[40:])
    return root


def cards(output: Path) -> dict[str, dict[str, Any]]:
    return {
        str(path.parent.relative_to(output)): json.loads(path.read_text())
        for path in output.rglob("seed-*/prompt.json")
    }


@contextmanager
def unwatched(runs: list[Any]) -> Any:
    yield None


def after(steps: int) -> Callable[[], bool]:
    """Says yes from the call on that comes before step `steps` + 1."""
    calls = 0

    def interrupted() -> bool:
        nonlocal calls
        calls += 1
        return calls > steps

    return interrupted


def never_loaded(*_: Any, **__: Any) -> None:
    raise AssertionError("a backbone was loaded")
