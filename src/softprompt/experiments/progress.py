"""Show the progress of many runs: one live table on a terminal, lines elsewhere."""

import time
from collections.abc import Sequence
from typing import Self

from rich.console import Console, ConsoleRenderable, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from softprompt.experiments.jobs import Job
from softprompt.tasks.metrics import percent
from softprompt.training.loop import Tuned
from softprompt.training.progress import TrainingView, clock, recent_loss

OTHER_LINES = 6
"""Lines of a terminal that are not rows of the table."""


def watch(console: Console, jobs: Sequence[Job]) -> "JobsView | TrainingView":
    """Open a view of `jobs` on a console."""
    if console.is_terminal:
        return JobsView(console, jobs)
    return TrainingView(console, [job.name for job in jobs])


class JobsView:
    """A live table: a row for each run that is being trained, the last to end below them, and how many wait."""

    def __init__(self, console: Console, jobs: Sequence[Job]) -> None:
        self.console = console
        self.steps = {job.name: job.recipe.steps for job in jobs}
        """Steps of each run; those of a run that is counted in epochs are corrected when it begins."""
        self.first: dict[str, int] = {}
        self.running: dict[str, Tuned] = {}
        self.over: list[list[str]] = []
        """Cells of the runs that ended; the runs themselves are not kept in memory."""
        self.spared = 0  # steps that will not be taken, because a run stopped early
        self.done = 0  # steps taken here, all runs together
        self.began = time.monotonic()
        self.live = Live(console=console, refresh_per_second=4, get_renderable=self.table)

    def __enter__(self) -> Self:
        self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.live.stop()

    def on_step(self, candidate: Tuned) -> None:
        """Count a step."""
        if candidate.name not in self.running:
            self.steps[candidate.name] = candidate.recipe.steps
            self.first[candidate.name] = candidate.step - 1
        self.running[candidate.name] = self.running.pop(candidate.name, candidate)  # those under way come last
        self.done += 1

    def on_evaluation(self, candidate: Tuned) -> None:
        """Do nothing: the table reads the candidate's own history."""

    def on_end(self, candidate: Tuned) -> None:
        """Move a run to those that are over."""
        self.running.pop(candidate.name, None)
        self.over.append(_cells(candidate))
        self.spared += candidate.recipe.steps - candidate.step

    # As training.loop.Listener names them.

    def table(self) -> ConsoleRenderable:
        """Return the table as it is now."""
        table = Table(box=None, pad_edge=False)
        table.add_column("run", no_wrap=True, overflow="ellipsis")
        for column in ("step", "loss", "dev", "best dev"):
            table.add_column(column, justify="right", no_wrap=True)
        table.add_column("", no_wrap=True, overflow="ellipsis")
        room = max(4, self.console.height - OTHER_LINES)
        running = [_cells(candidate) for candidate in [*self.running.values()][-room:]]
        for cells in running:
            table.add_row(*cells)
        for cells in self.over[::-1][: room - len(running)]:
            table.add_row(*cells, style="dim")
        return Group(table, Text(self.summary()))

    def summary(self) -> str:
        """Return the line below the table."""
        waiting = len(self.steps) - len(self.running) - len(self.over)
        taken = time.monotonic() - self.began
        left = sum(self.steps.values()) - sum(self.first.values()) - self.done - self.spared
        eta = f", {clock(taken / self.done * left)} left" if self.done else ""
        return (
            f"{len(self.over)} of {len(self.steps)} runs at their end, {len(self.running)} begun, {waiting} wait; "
            f"{clock(taken)}{eta}"
        )


def _cells(candidate: Tuned) -> list[str]:
    metric = candidate.task.metrics[0]
    last = next((entry["dev"][metric] for entry in reversed(candidate.history) if "dev" in entry), None)
    best = None if candidate.best is None else candidate.best["value"]
    return [
        candidate.name,
        f"{candidate.step}/{candidate.recipe.steps}",
        f"{recent_loss(candidate):.3f}",
        *("-" if value is None else percent(value) for value in (last, best)),
        candidate.stopped or "",
    ]
