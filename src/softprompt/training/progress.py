"""Show training: a bar per prompt on a terminal, plain lines elsewhere; and the table of results."""

import time
from collections.abc import Sequence
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from softprompt.evaluation.evaluate import ScoresJson
from softprompt.tasks.metrics import percent
from softprompt.training.loop import Tuned


class TrainingView:
    """Shows the events of training: a bar per prompt on a terminal, a line per evaluation elsewhere."""

    def __init__(self, console: Console, names: Sequence[str]) -> None:
        self.console = console
        self.began = time.monotonic()
        self.first_step: dict[str, int] = {}
        self.width = max(map(len, names))
        self.bars: Progress | None = None
        self.ids: dict[str, TaskID] = {}
        if console.is_terminal:
            self.bars = Progress(
                TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn(),
                TextColumn("loss {task.fields[loss]}  dev {task.fields[dev]}"), TimeRemainingColumn(),
                console=console, speed_estimate_period=600,
            )  # fmt: skip

    def __enter__(self) -> Self:
        if self.bars:
            self.bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.bars:
            self.bars.stop()

    def on_step(self, candidate: Tuned) -> None:
        self._see(candidate, candidate.step - 1)
        if self.bars:
            self.bars.update(self.ids[candidate.name], completed=candidate.step, loss=f"{recent_loss(candidate):5.3f}")
        elif candidate.step - self.first_step[candidate.name] == 5:  # an early word: it runs, and how long it takes
            self._say(candidate, "")

    def _see(self, candidate: Tuned, began: int) -> None:
        """Begin to show a candidate that is seen for the first time, after step `began`."""
        if candidate.name in self.first_step:
            return
        self.first_step[candidate.name] = began
        if self.bars:
            self.ids[candidate.name] = self.bars.add_task(
                candidate.name.ljust(self.width), total=candidate.recipe.steps, completed=candidate.step,
                loss="    -", dev="    -",
            )  # fmt: skip

    def on_evaluation(self, candidate: Tuned) -> None:
        self._see(candidate, candidate.step)  # it may be evaluated before its first step
        metric = candidate.task.metrics[0]
        value = candidate.history[-1]["dev"][metric]
        if self.bars:
            self.bars.update(self.ids[candidate.name], dev=f"{metric} {percent(value):>5}")
            return
        # The scores at the end are those of all rows.
        limit, whole = candidate.recipe.dev_limit, len(candidate.task.examples["dev"])
        rows = f" ({limit} of {whole} rows)" if limit and limit < whole else ""
        self._say(candidate, f"dev{rows} {metric} {percent(value)}  ")

    def _say(self, candidate: Tuned, dev: str) -> None:
        taken = time.monotonic() - self.began
        done = candidate.step - self.first_step[candidate.name]
        loss = f"loss {recent_loss(candidate):.3f}  " if done else ""
        left = taken / max(done, 1) * (candidate.recipe.steps - candidate.step)
        self.console.print(
            f"{candidate.name:{self.width}}  step {candidate.step:>5}/{candidate.recipe.steps}  "
            f"{loss}{dev}{f'ETA {clock(left)}' if done else ''}".rstrip(),
            soft_wrap=True,
        )

    def on_end(self, candidate: Tuned) -> None:
        if candidate.stopped:
            self.console.print(f"{candidate.name} stopped early: {candidate.stopped}", soft_wrap=True)


def recent_loss(candidate: Tuned, count: int = 20) -> float:
    losses = [entry["loss"] for entry in candidate.history[-2 * count :] if "loss" in entry][-count:]
    return sum(losses) / len(losses) if losses else float("nan")


def clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def print_result(console: Console, metrics: Sequence[str], rows: Sequence[tuple[str, int | None, ScoresJson]]) -> None:
    """Print a table of scores: `rows` are (what, trainable values or None, scores as JSON)."""
    table = Table(box=None, pad_edge=False)
    table.add_column("test")
    for metric in metrics:
        table.add_column(metric, justify="right")
    table.add_column("trained values", justify="right")
    for what, trainable, scores in rows:
        values = [percent(scores["metrics"][metric]) for metric in metrics]
        table.add_row(what, *values, "-" if trainable is None else f"{trainable:,}")
    console.print(table)
