"""What is asked of a backbone: examples with a source and a target, in three splits."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from softprompt.errors import UnknownName
from softprompt.tasks.files import evaluation_examples, from_files
from softprompt.tasks.rows import read_rows
from softprompt.tasks.task import SPLITS, Example, Split, Task
from softprompt.tasks.template import Template

__all__ = [
    "SPLITS", "TASKS", "Example", "Split", "Task", "Template", "evaluation_examples", "from_files", "get_task",
    "read_rows",
]  # fmt: skip


def support() -> Task:
    """Route a customer's message to one of six teams: 600 messages written for this package (CC0)."""
    folder = Path(__file__).parent / "samples" / "support"
    paths = {split: folder / f"{split}.jsonl" for split in SPLITS}
    task = from_files(
        paths["train"], dev=paths["dev"], test=paths["test"], label="team", template="Message: {text}\nTeam:"
    )
    return replace(task, name="support", origin={"task": "support"})


TASKS: dict[str, Callable[[], Task]] = {"support": support}


def get_task(name: str) -> Task:
    if name not in TASKS:
        raise UnknownName("task", name, TASKS, "Your own file is given with --data FILE.")
    return TASKS[name]()
