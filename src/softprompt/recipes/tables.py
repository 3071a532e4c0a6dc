"""Tables: published results with the recipes that should reproduce them."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from softprompt.errors import BadInput, UnknownName
from softprompt.recipes.plan import Plan

Score = float | str
"""A score as the paper prints it, in percent; text where that is more than a number: "79.1/83.3", "0†"."""


def as_number(score: Score | None) -> float | None:
    """Return the number that enters a mean: the mean of two metrics, without daggers and deviations."""
    if score is None or isinstance(score, float | int):
        return score
    parts = [part.split("±")[0].strip("† ") for part in score.split("/")]
    return sum(map(float, parts)) / len(parts) if all(parts) and "-" not in parts else None


@dataclass(frozen=True)
class Column:
    """A task and its metric."""

    task: str
    metric: str
    """Name in softprompt.tasks.metrics; "pearson+spearman" is the mean of both, as papers average pairs; "f1" is that
    of the task's class 1."""
    heading: str


@dataclass(frozen=True)
class Line:
    """A method with its recipe and its published scores."""

    name: str
    """Name in folders and in --lines."""
    title: str
    plan: Callable[[str], Plan] | None = None
    """Makes the recipe for a task by name; None: the line is only quoted."""
    published: Mapping[str, Score] = field(default_factory=dict)
    """Scores by task."""
    parameters: str = ""
    needs: str = ""
    """Option without which it cannot be run, so that it is only run where that is given."""
    tasks: tuple[str, ...] = ()
    """Tasks that it can be run on; none: all of the table's."""

    def runs_on(self, column: Column) -> bool:
        """Return whether it has a recipe for the task of `column`."""
        return self.plan is not None and (not self.tasks or column.task in self.tasks)


@dataclass(frozen=True)
class Table:
    """A published table: lines of methods, columns of tasks."""

    name: str
    title: str
    source: str
    """Where the numbers are published."""
    backbone: str
    """The paper's backbone, by its hub id."""
    columns: tuple[Column, ...]
    lines: tuple[Line, ...]
    seeds: int
    """Runs per cell."""
    notes: tuple[str, ...] = ()

    def select(
        self, tasks: list[str] | None, lines: list[str] | None, given: Collection[str] = ()
    ) -> "tuple[list[Column], list[Line]]":
        """Select columns and lines by name; without names all that can be run with the options `given`.

        Raises:
            BadInput: A line needs an option that is not given, or has no recipe for any of the tasks.
            UnknownName: There is no such task or line.
        """
        chosen = [line for line in self.lines if line.plan and (not line.needs or line.needs in given)]
        if lines is not None:
            by_name = {line.name: line for line in self.lines if line.plan}
            for name in lines:
                if name not in by_name:
                    raise UnknownName(f"line of {self.name}", name, by_name)
            chosen = [by_name[name] for name in dict.fromkeys(lines)]
        for line in chosen:
            if line.needs and line.needs not in given:
                raise BadInput(f"The line {line.name} of {self.name} needs --set {line.needs}=..., which is not given.")
        columns = list(self.columns) if tasks is None else list(dict.fromkeys(self._column(task) for task in tasks))
        found = [column for column in columns if any(line.runs_on(column) for line in chosen)]
        if not found:
            asked, able = (", ".join(names) for names in (
                [column.task for column in columns], [c.task for c in self.columns if any(x.runs_on(c) for x in chosen)]
            ))  # fmt: skip
            raise BadInput(f"No such line of {self.name} has a recipe for {asked}; there are some for {able}.")
        return found, chosen

    def _column(self, task: str) -> Column:
        found = [column for column in self.columns if task in (column.task, column.task.split("/")[1])]
        if not found:
            known = [column.task if "/" in task else column.task.split("/")[1] for column in self.columns]
            raise UnknownName(f"task of {self.name}", task, known)
        return found[0]
