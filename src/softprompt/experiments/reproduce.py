"""Reproduce a table: every line on every task with several seeds, all of a task in the same batches.

A folder holds OUTPUT/TASK/LINE/seed-N (a run each; its plan.json is its spec), TASK/floors.json, and table.json and
table.md, written anew after each task. The same call on the same folder goes on where it was: finished runs are only
read. A call with another recipe, task or setting is refused.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from softprompt.errors import RunFailed
from softprompt.experiments.arguments import ReproduceArguments
from softprompt.experiments.experiment import Experiment, describe_examples, read_floors, run_experiment
from softprompt.experiments.jobs import Job, JobSpec
from softprompt.experiments.reports.published_table import as_markdown, make_cell
from softprompt.experiments.tables import Cell, PublishedLine, ReproductionTable, SplitScores, TableColumn, TableLine
from softprompt.recipes import Plan, Recipe, Setting
from softprompt.recipes.override import override_all
from softprompt.recipes.registry import get_table
from softprompt.recipes.setting import parse_setting
from softprompt.recipes.tables import Column, Line, Table
from softprompt.runs.run_folder import is_finished, versions
from softprompt.runs.start_from import Predecessor, read_predecessor
from softprompt.runtime.arguments import accepts, given_in
from softprompt.tasks import Task
from softprompt.tasks.published.catalogue import find, load_task
from softprompt.tasks.published.protocols import get_protocol
from softprompt.tasks.published.spec import TaskSpec, as_limit, parse_spec
from softprompt.training.request import make_recipes


@dataclass(frozen=True)
class TableRun:
    """A run of a table; its data is read when its task's turn comes."""

    line: Line
    plan: Plan
    folder: Path
    predecessor: Predecessor | None

    @property
    def spec(self) -> JobSpec:
        return JobSpec(task=self.plan.task.model_dump(), setting=self.plan.setting, recipe=self.plan.recipe)

    @property
    def finished(self) -> bool:
        return is_finished(self.folder)


class Reproduction(Experiment[ReproductionTable]):
    """Runs a table, or some of its lines and tasks, beside what was published."""

    def __init__(
        self,
        table: Table,
        output: Path,
        *,
        tasks: Sequence[str] | None = None,
        lines: Sequence[str] | None = None,
        seeds: int | None = None,
        spec: Mapping[str, object] | None = None,
        setting: Mapping[str, object] | None = None,
        changes: Mapping[str, object] | None = None,
        start_from: str | Path | None = None,
        max_parallel: int | None = None,
    ) -> None:
        """Plan the runs and check their folders.

        Args:
          table: Recipes and published scores.
          output: Folder of the reproduction.
          tasks: Names of the columns to run; None: all.
          lines: Names of the lines to run; None: all that have a recipe.
          seeds: Runs of each cell; None: as many as the table has.
          spec: Fields of TaskSpec that change every plan.
          setting: Fields of Setting that change every plan.
          changes: Recipe fields and method options that change every plan.
          start_from: Folder of the run that every prompt starts from.
          max_parallel: Prompts in memory at a time; None: as many as fit.

        Raises:
          BadInput: A value does not fit, or a folder holds another run.
          UnknownName: A line, task, field or option does not exist.
        """
        super().__init__(output, max_parallel=max_parallel)
        self.paper_table = table
        self.seeds = seeds or table.seeds
        self.spec, self.setting, self.changes = dict(spec or {}), dict(setting or {}), dict(changes or {})
        self.columns, self.lines = table.select(
            list(tasks) if tasks else None, list(lines) if lines else None, self.changes
        )
        self.predecessor = None if start_from is None else read_predecessor(start_from)
        self.runs = {column.task: self._plan(column) for column in self.columns}
        self.cells: dict[tuple[str, str], Cell] = {}
        self.column_floors: dict[str, dict[str, SplitScores]] = {}
        self.failed: list[str] = []
        self._tasks: dict[str, Task] = {}
        self.check_folders()

    def _plan(self, column: Column) -> list[TableRun]:
        lines = [line for line in self.lines if line.runs_on(column)]
        plans = [line.plan(column.task) for line in lines if line.plan]
        recipes = override_all([plan.recipe for plan in plans], self.changes)
        runs = []
        for line, plan, recipe in zip(lines, plans, recipes, strict=True):
            for seed in range(self.seeds):
                # A few-shot table draws other examples for every seed.
                draw = {} if plan.task.shots is None and not self.spec.get("shots") else {"draw": seed}
                changed = plan.model_copy(
                    update={
                        "task": parse_spec({**plan.task.model_dump(), **self.spec, **draw}),
                        "setting": parse_setting({**plan.setting.model_dump(), **self.setting}),
                        "recipe": self._start_recipe(recipe, plan).model_copy(update={"seed": seed}),
                    }
                )
                folder = self._folder(column) / line.name / f"seed-{seed}"
                runs.append(TableRun(line, changed, folder, self.predecessor))
        return runs

    def _start_recipe(self, recipe: Recipe, plan: Plan) -> Recipe:
        """Complete `recipe` with the options of the run it starts from, if there is one."""
        if self.predecessor is None:
            return recipe
        max_source = parse_setting({**plan.setting.model_dump(), **self.setting}).max_source
        return make_recipes([recipe.method], {}, None, self.predecessor, max_source, recipe)[recipe.method]

    def _folder(self, column: Column) -> Path:
        return self.output / column.task.replace("/", "-")

    def planned(self) -> Iterator[TableRun]:
        """Yield the runs of every cell."""
        for runs in self.runs.values():
            yield from runs

    def train(self) -> None:
        """Bring one task after another to its end, and write the table after each."""
        self.failed = []
        for column in self.columns:
            runs = self.runs[column.task]
            for setting in dict.fromkeys(run.plan.setting for run in runs):
                self._train_on(column, setting, [run for run in runs if run.plan.setting == setting])
            self._read_cells(column)
            self.write()
            self.say(f"{column.task} is done: {self.output / 'table.md'}")
        if self.failed:
            raise RunFailed(" ".join(self.failed))

    def _train_on(self, column: Column, setting: Setting, runs: Sequence[TableRun]) -> None:
        """Bring one task's runs in one setting to their end."""
        left = [run for run in runs if not run.finished]
        path = self._folder(column) / f"floors{'-dropout' if setting.dropout else ''}.json"
        if not left and path.is_file():
            self.say(f"{column.task}: {len(runs)} runs are finished already")
            return
        backbone = self.backbone(setting)
        first = self._task(runs[0].plan)
        self.say(
            f"{column.task}: {describe_examples(first)}; {len(left)} of {len(runs)} runs to do, in the same batches"
        )
        floors = self.floors(path, backbone, first)
        self.run_jobs(backbone, [self._job(run) for run in left], floors)

    def report_failures(self, failures: Sequence[str]) -> None:
        """Keep what failed: the call ends with it, after the other tasks."""
        self.failed += failures

    def _job(self, run: TableRun) -> Job:
        task = self._task(run.plan)
        name = f"{run.line.name}-{task.name}-seed{run.plan.recipe.seed}"
        return Job(name, run.folder, run.spec, task, run.predecessor)

    def _task(self, plan: Plan) -> Task:
        key = _key(plan)
        if key not in self._tasks:
            self._tasks[key] = load_task(find(plan.task.task), plan.task)
        return self._tasks[key]

    def _read_cells(self, column: Column) -> None:
        """Read the finished runs of a task into cells, and its floors."""
        for line in self.lines:
            done = [run for run in self.runs[column.task] if run.line is line and run.finished]
            if done:
                tasks = [self._task(run.plan) for run in done]
                self.cells[line.name, column.task] = make_cell([run.folder for run in done], tasks, column, line)
        paths = [self._folder(column) / name for name in ("floors.json", "floors-dropout.json")]
        floors = read_floors(next(path for path in paths if path.is_file()))
        self.column_floors[column.task] = {name: SplitScores.model_validate(scores) for name, scores in floors.items()}

    def table(self) -> ReproductionTable:
        """Return the cells that are done, beside what was published."""
        table, plans = self.paper_table, {task: runs[0].plan for task, runs in self.runs.items()}
        protocol = get_protocol(plans[self.columns[0].task].task.protocol)
        backbones = {run.plan.setting.backbone for run in self.planned()}
        read = {task: self._tasks[_key(plan)] for task, plan in plans.items() if _key(plan) in self._tasks}
        return ReproductionTable(
            table=table.name,
            title=table.title,
            source=table.source,
            backbone=", ".join(sorted(Path(name).name for name in backbones)),
            protocol=protocol.name,
            protocol_seeds=protocol.seeds,
            seeds=self.seeds,
            changes=self.changes,
            spec={name: value for name, value in self.spec.items() if name != "data_dir"},
            setting={name: value for name, value in self.setting.items() if name != "backbone"},
            columns=[TableColumn(task=c.task, metric=c.metric, heading=c.heading) for c in self.columns],
            rows={task: {split: len(rows) for split, rows in one.examples.items()} for task, one in read.items()},
            floors=self.column_floors,
            published=[
                PublishedLine(line=one.name, title=one.title, parameters=one.parameters, scores=dict(one.published))
                for one in table.lines
                if one.published
            ],
            lines=[TableLine(line=line.name, title=line.title) for line in self.lines],
            cells=list(self.cells.values()),
            versions=versions(),
        )

    def forms(self) -> Mapping[str, Callable[[ReproductionTable], str]]:
        """Return table.md."""
        return {"table.md": as_markdown}


def _key(plan: Plan) -> str:
    return plan.task.model_dump_json()


def run_reproduction(arguments: ReproduceArguments) -> ReproductionTable:
    """Run a paper's table, or go on with it, beside what was published; the result is also in `output`/table.json."""
    table = get_table(arguments.table)
    given = given_in(arguments)
    spec = {name: value for name, value in given.items() if name in TaskSpec.model_fields}
    if arguments.limit is not None:
        spec["limit"] = as_limit(arguments.limit)
    if arguments.data_dir is not None:
        spec["data_dir"] = str(arguments.data_dir)
    setting = {name: value for name, value in given.items() if name in Setting.model_fields}
    experiment = Reproduction(
        table, Path(arguments.output), tasks=arguments.tasks, lines=arguments.lines, seeds=arguments.seeds, spec=spec,
        setting={**setting, "backbone": arguments.backbone or table.backbone}, changes=arguments.settings,
        start_from=arguments.start_from, max_parallel=arguments.max_parallel,
    )  # fmt: skip
    return run_experiment(experiment, arguments)


reproduce = accepts(ReproduceArguments, "reproduce")(run_reproduction)
