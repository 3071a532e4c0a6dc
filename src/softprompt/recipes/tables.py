"""Tables: papers' results beside the recipes that should give them, and ours."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from softprompt.errors import UnknownName
from softprompt.recipes.plan import Plan

Score = float | str
"""As it is printed, in percent; text where the paper prints more than a number."""


@dataclass(frozen=True)
class Column:
    task: str
    metric: str
    """Of softprompt.metrics; "mean" is the mean of the task's metrics, as papers print pairs."""
    heading: str


@dataclass(frozen=True)
class Line:
    name: str
    """As in a folder and in --lines."""
    title: str
    plan: Callable[[str], Plan] | None = None
    """The recipe for a task by name; None for a line that is only quoted."""
    published: Mapping[str, Score] = field(default_factory=dict)
    """By task."""
    parameters: str = ""


@dataclass(frozen=True)
class Table:
    name: str
    title: str
    source: str
    """Where the published numbers stand."""
    backbone: str
    """The paper's, as the hub has it."""
    columns: tuple[Column, ...]
    lines: tuple[Line, ...]
    seeds: int
    """Runs of each cell; for ours those that the protocol asks for."""
    notes: tuple[str, ...] = ()

    def chosen(self, tasks: list[str] | None, lines: list[str] | None) -> "tuple[list[Column], list[Line]]":
        """Columns and lines by name, all that can be run without names. Raises UnknownName."""
        columns, runnable = list(self.columns), [line for line in self.lines if line.plan]
        if tasks is not None:
            columns = [self._column(task) for task in tasks]
        if lines is not None:
            by_name = {line.name: line for line in runnable}
            for name in lines:
                if name not in by_name:
                    raise UnknownName(f"line of {self.name}", name, by_name)
            runnable = [by_name[name] for name in lines]
        return columns, runnable

    def _column(self, task: str) -> Column:
        found = [column for column in self.columns if task in (column.task, column.task.split("/")[1])]
        if not found:
            raise UnknownName(f"task of {self.name}", task, [column.task for column in self.columns])
        return found[0]
