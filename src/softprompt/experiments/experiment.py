"""The skeleton of every verb that trains many runs: sweep, compare and reproduce.

All of them check the folder of every run before anything is loaded or written, train what is not finished, keep the
floors of each task, and write a table in several forms. The same call on the same folder goes on where it was.
A subclass says which runs there are, what is chosen from them and what the table holds.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Generic, TypeVar

from rich.console import Console

from softprompt.backbones import Backbone
from softprompt.evaluation.floors import measure_floors, measure_rivals
from softprompt.experiments.arguments import ManyRuns
from softprompt.experiments.cluster.driver import open_runner
from softprompt.experiments.jobs import Floors, Job, PlannedRun, check_spec
from softprompt.experiments.progress import watch
from softprompt.experiments.runner import JobBatch, JobRunner, LocalRunner, Monitor
from softprompt.experiments.tables import TablePart
from softprompt.recipes import Setting
from softprompt.runtime.files import make_folder, write_json, write_text
from softprompt.runtime.interrupts import interruptible
from softprompt.tasks import Task
from softprompt.training.run import open_backbone

Result = TypeVar("Result", bound=TablePart)


class Experiment(ABC, Generic[Result]):
    """Many runs in one folder, and the table they end in."""

    def __init__(self, output: Path, *, max_parallel: int | None = None) -> None:
        """Plan the experiment in the folder `output`, with at most `max_parallel` prompts in memory (None: all fit)."""
        self.output, self.max_parallel = output, max_parallel
        self.monitor = Monitor()
        self.runner: JobRunner = LocalRunner()
        self.rivals: Sequence[str] = ()
        """What is scored beside the runs, by name (softprompt.evaluation.rivals)."""
        self._backbones: dict[Setting, Backbone] = {}

    @abstractmethod
    def planned(self) -> Iterable[PlannedRun]:
        """Yield every run that the experiment may train."""

    @abstractmethod
    def train(self) -> None:
        """Train what is not finished, and choose."""

    @abstractmethod
    def table(self) -> Result:
        """Return what has come out so far."""

    @abstractmethod
    def forms(self) -> Mapping[str, Callable[[Result], str]]:
        """Return what renders the table, by file name, beside table.json."""

    def check_folders(self) -> None:
        """Raise BadInput where the folder of a planned run holds another run."""
        for run in self.planned():
            check_spec(run)

    def run(self, monitor: Monitor | None = None, runner: JobRunner | None = None) -> Result:
        """Train what is not finished, in this process unless `runner` is another; return the table.

        Raises:
          Interrupted: The monitor said so; everything is saved.
          RunFailed: A run could not end; the others are finished.
        """
        self.monitor, self.runner = monitor or self.monitor, runner or self.runner
        make_folder(self.output)
        self.train()
        return self.write()

    def write(self) -> Result:
        """Write the table in all its forms, and return it."""
        table = self.table()
        write_table(self.output, table, self.forms())
        return table

    def say(self, text: str) -> None:
        """Print a line about the experiment."""
        self.monitor.say(text)

    def backbone(self, setting: Setting) -> Backbone:
        """Load the backbone of `setting`; only the last one stays in memory."""
        if setting not in self._backbones:
            self._backbones.clear()
            self._backbones[setting] = open_backbone(setting)
        return self._backbones[setting]

    def floors(self, path: Path, backbone: Backbone, task: Task) -> Floors:
        """Read the floors of `task` from `path`; measure and keep there what is missing."""
        known = read_floors(path) if path.is_file() else measure_floors(backbone, task)
        missing = [name for name in self.rivals if name not in known]
        found = known | measure_rivals(backbone, task, missing)
        if not path.is_file() or found != known:
            make_folder(path.parent)
            write_json(path, found)
        return found

    def run_jobs(
        self,
        backbone: Backbone,
        jobs: Sequence[Job],
        floors: Floors,
        *,
        stop_at_step: int | None = None,
        quiet: bool = False,
    ) -> None:
        """Run the unfinished ones of `jobs`, and report what failed.

        Args:
          backbone: The frozen model.
          jobs: Jobs of one setting.
          floors: Written into each card.
          stop_at_step: Step that no job goes beyond; None: each goes to its end.
          quiet: Show nothing, and do not heed Ctrl-C: the jobs end without a step.
        """
        batch = JobBatch(jobs, floors, self.max_parallel, stop_at_step)
        self.report_failures(self.runner.run(backbone, batch, Monitor() if quiet else self.monitor))

    def report_failures(self, failures: Sequence[str]) -> None:
        """Print what failed. Such a run has a score all the same: that of its last good prompt."""
        for failure in failures:
            self.say(failure)


def read_floors(path: Path) -> Floors:
    """Read a floors.json."""
    floors: Floors = json.loads(path.read_text(encoding="utf-8"))
    return floors


def count_unfinished(jobs: Iterable[Job]) -> int:
    """Count the jobs that are still to run."""
    return sum(not job.finished for job in jobs)


def describe_examples(task: Task) -> str:
    """Return the numbers of a task's examples, as one line shows them."""
    return f"{'/'.join(str(len(examples)) for examples in task.examples.values())} train/dev/test examples"


def write_table(output: Path, table: Result, forms: Mapping[str, Callable[[Result], str]]) -> None:
    """Write `table` to the folder `output`: table.json, and `forms` of it by file name."""
    write_json(output / "table.json", table.as_json())
    for name, render in forms.items():
        write_text(output / name, render(table))


def run_experiment(experiment: Experiment[Result], arguments: ManyRuns) -> Result:
    """Run an experiment as the user asked for it: with a console, Ctrl-C and a Ray cluster."""
    console = arguments.console or Console(stderr=True, highlight=False)

    def say(text: str) -> None:
        console.print(text, soft_wrap=True, markup=False)

    def notice() -> None:
        say("Ctrl-C: ending after this step, then saving. Press again to end at once.")

    cluster = open_runner(arguments.ray, arguments.workers, say)
    with interruptible(notice) as interrupted, cluster as runner:
        return experiment.run(Monitor(say, partial(watch, console), interrupted), runner)
