"""Tasks: data as examples with a source and a target, in three splits, and their metrics."""

from softprompt.tasks.files import evaluation_examples, from_files, from_origin
from softprompt.tasks.published.catalogue import CATALOGUE
from softprompt.tasks.readers import read_rows
from softprompt.tasks.registry import TASKS, get_task, task_again, task_like
from softprompt.tasks.task import SPLITS, Example, Split, Task
from softprompt.tasks.template import Template

__all__ = [
    "CATALOGUE",
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
    "task_again",
    "task_like",
]
