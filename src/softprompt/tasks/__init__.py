"""What is asked of a backbone: examples with a source and a target, in three splits."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from softprompt.errors import UnknownName
from softprompt.tasks.files import evaluation_examples, from_files, from_origin
from softprompt.tasks.rows import read_rows
from softprompt.tasks.task import SPLITS, Example, Split, Task
from softprompt.tasks.template import Template

__all__ = [
    "SPLITS",
    "TASKS",
    "Example",
    "Split",
    "Task",
    "Template",
    "evaluation_examples",
    "from_files",
    "from_origin",
    "get_task",
    "read_rows",
]


def support() -> Task:
    """Route a customer's message to one of six teams: 600 messages written for this package (CC0)."""
    folder = Path(__file__).parent / "samples" / "support"
    train, dev, test = (folder / f"{split}.jsonl" for split in SPLITS)
    # Template and words were chosen by zero-shot accuracy on train alone (results/support_words.md).
    words = {
        "billing": "payment", "delivery": "delivery", "returns": "return", "account": "password",
        "technical": "setup", "sales": "shopping",
    }  # fmt: skip
    template = "Message: {text}\nThis message is about"
    task = from_files(train, dev=dev, test=test, label="team", template=template, words=words)
    return replace(task, name="support", origin={"task": "support", "label": "team", "words": words})


TASKS: dict[str, Callable[[], Task]] = {"support": support}


def get_task(name: str) -> Task:
    """A shipped task by name. Raises UnknownName, with a suggestion."""
    if name not in TASKS:
        raise UnknownName("task", name, TASKS, "Your own file is given with --data FILE.")
    return TASKS[name]()
