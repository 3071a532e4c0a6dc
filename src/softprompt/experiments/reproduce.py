"""Run a table: every line on every task with several seeds, all of a task in the same batches.

A folder holds OUTPUT/TASK/LINE/seed-N (a run each; its plan.json says what the table asked for), TASK/floors.json,
and table.json and table.md, written anew after each task. The same call on the same folder goes on where it was:
finished runs are only read. A call that asks for another recipe, task or setting is refused.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from softprompt.backbones import Backbone
from softprompt.errors import RunFailed
from softprompt.experiments.cluster.driver import runner
from softprompt.experiments.jobs import Job, JobSpec, RunJobs, Watch, check_spec, floors_of, is_finished, run_jobs
from softprompt.experiments.progress import watch
from softprompt.experiments.reports.published_table import Cell, as_markdown, cell_of
from softprompt.recipes import Plan, Recipe, Setting
from softprompt.recipes.override import override_all
from softprompt.recipes.registry import get_table
from softprompt.recipes.setting import parse_setting
from softprompt.recipes.tables import Column, Line, Table
from softprompt.runs.run_folder import versions
from softprompt.runs.start_from import read_predecessor
from softprompt.runtime.files import make_folder, write_json, write_text
from softprompt.runtime.interrupts import interruptible
from softprompt.tasks import Task
from softprompt.tasks.published.catalogue import find, load_task
from softprompt.tasks.published.protocols import get_protocol
from softprompt.tasks.published.spec import TaskSpec, parse_spec
from softprompt.training.request import make_recipes
from softprompt.training.run import open_backbone


@dataclass(frozen=True)
class Place:
    """Where one run of a table stands, and what it is; its data is read when its task's turn comes."""

    line: Line
    plan: Plan
    folder: Path

    @property
    def asked(self) -> JobSpec:
        return JobSpec(task=self.plan.task.model_dump(), setting=self.plan.setting, recipe=self.plan.recipe)

    @property
    def finished(self) -> bool:
        return is_finished(self.folder)


class Reproduction:
    """A table on its way: what is to run, and what has come out."""

    def __init__(
        self,
        table: Table,
        output: Path,
        *,
        tasks: Sequence[str] | None = None,
        lines: Sequence[str] | None = None,
        seeds: int | None = None,
        spec: Mapping[str, Any] | None = None,
        setting: Mapping[str, Any] | None = None,
        changes: Mapping[str, Any] | None = None,
        start_from: str | Path | None = None,
    ) -> None:
        """`spec`, `setting` and `changes` change every plan: fields of TaskSpec and Setting, and names of a recipe.

        Raises UnknownName and BadInput before anything is loaded.
        """
        self.table, self.output = table, output
        self.columns, self.lines = table.select(_listed(tasks), _listed(lines))
        self.seeds = seeds or table.seeds
        self.spec, self.setting, self.changes = dict(spec or {}), dict(setting or {}), dict(changes or {})
        self.predecessor = None if start_from is None else read_predecessor(start_from)
        self.cells: dict[tuple[str, str], Cell] = {}
        self.floors: dict[str, dict[str, Any]] = {}
        self.places = {column.task: self._places(column) for column in self.columns}
        self._tasks: dict[str, Task] = {}
        self._backbones: dict[Setting, Backbone] = {}
        self.run_jobs: RunJobs = run_jobs
        for places in self.places.values():
            for place in places:
                check_spec(place.folder, place.asked, self.predecessor)

    def _places(self, column: Column) -> list[Place]:
        plans = [line.plan(column.task) for line in self.lines if line.plan]
        recipes = [
            self._continued(recipe, plan)
            for recipe, plan in zip(override_all([plan.recipe for plan in plans], self.changes), plans, strict=True)
        ]
        places = []
        for line, plan, recipe in zip(self.lines, plans, recipes, strict=True):
            for seed in range(self.seeds):
                # A few-shot table draws other examples for every seed.
                draw = {} if plan.task.shots is None and not self.spec.get("shots") else {"draw": seed}
                own = plan.model_copy(
                    update={
                        "task": parse_spec({**plan.task.model_dump(), **self.spec, **draw}),
                        "setting": parse_setting({**plan.setting.model_dump(), **self.setting}),
                        "recipe": recipe.model_copy(update={"seed": seed}),
                    }
                )
                folder = self.output / column.task.replace("/", "-") / line.name / f"seed-{seed}"
                places.append(Place(line, own, folder))
        return places

    def _continued(self, recipe: Recipe, plan: Plan) -> Recipe:
        """With a run to start from, its options where the recipe has none, checked."""
        if self.predecessor is None:
            return recipe
        max_source = self.setting.get("max_source", plan.setting.max_source)
        return make_recipes([recipe.method], {}, None, self.predecessor, max_source, recipe)[recipe.method]

    def run(
        self,
        say: Callable[[str], None],
        watch: Watch,
        interrupted: Callable[[], bool] = lambda: False,
        run_jobs: RunJobs = run_jobs,
    ) -> dict[str, Any]:
        """Run what is not finished, task by task, by `run_jobs`; returns what table.json holds.

        `watch` gives a context manager whose value listens to the jobs of one task. Raises Interrupted,
        after saving, when `interrupted` says so.
        """
        self.run_jobs = run_jobs
        make_folder(self.output)
        failed: list[str] = []
        for column in self.columns:
            for setting in dict.fromkeys(place.plan.setting for place in self.places[column.task]):
                places = [place for place in self.places[column.task] if place.plan.setting == setting]
                failed += self._tune(column, setting, places, say, watch, interrupted)
            self._gather(column)
            self.write()
            say(f"{column.task} is done: {self.output / 'table.md'}")
        if failed:
            raise RunFailed(" ".join(failed))
        return self.as_json()

    def _tune(
        self,
        column: Column,
        setting: Setting,
        places: list[Place],
        say: Callable[[str], None],
        watch: Watch,
        interrupted: Callable[[], bool],
    ) -> list[str]:
        """Bring one task's runs in one setting to their end; returns what failed."""
        left = [place for place in places if not place.finished]
        path = places[0].folder.parents[1] / f"floors{'' if not setting.dropout else '-dropout'}.json"
        if not left and path.is_file():
            say(f"{column.task}: {len(places)} runs are finished already")
            return []
        backbone = self._backbone(setting)
        first = self._task(places[0].plan)
        rows = "/".join(str(len(examples)) for examples in first.examples.values())
        say(
            f"{column.task}: {rows} train/dev/test examples; {len(left)} of {len(places)} runs to do, in the same "
            "batches"
        )
        floors = floors_of(path, backbone, first)
        return self.run_jobs(backbone, [self._job(place) for place in left], floors, watch, interrupted)

    def _job(self, place: Place) -> Job:
        task = self._task(place.plan)
        name = f"{place.line.name}-{task.name}-seed{place.plan.recipe.seed}"
        return Job(name, place.folder, place.asked, task, self.predecessor)

    def _gather(self, column: Column) -> None:
        """Read the finished runs of a task into cells."""
        for line in self.lines:
            done = [place for place in self.places[column.task] if place.line is line and place.finished]
            if done:
                tasks = [self._task(place.plan) for place in done]
                self.cells[line.name, column.task] = cell_of([place.folder for place in done], tasks, column, line)
        folder = self.places[column.task][0].folder.parents[1]
        path = next(path for path in (folder / "floors.json", folder / "floors-dropout.json") if path.is_file())
        self.floors[column.task] = json.loads(path.read_text(encoding="utf-8"))

    def as_json(self) -> dict[str, Any]:
        specs = [place.plan.task for place in self.places[self.columns[0].task]]
        protocol = get_protocol(specs[0].protocol)
        settings = {place.plan.setting.backbone for places in self.places.values() for place in places}
        return {
            "table": self.table.name, "title": self.table.title, "source": self.table.source,
            "backbone": ", ".join(sorted(Path(name).name for name in settings)), "protocol": protocol.name,
            "protocol_seeds": protocol.seeds, "seeds": self.seeds,
            "changes": self.changes,
            "spec": {name: value for name, value in self.spec.items() if name != "data_dir"},
            "setting": {name: value for name, value in self.setting.items() if name != "backbone"},
            "columns": [{"task": c.task, "metric": c.metric, "heading": c.heading} for c in self.columns],
            "rows": {task: {s: len(r) for s, r in self._tasks[key].examples.items()}
                     for task, key in ((c.task, _key(self.places[c.task][0].plan.task)) for c in self.columns)
                     if key in self._tasks},
            "floors": self.floors,
            "published": [
                {"line": line.name, "title": line.title, "parameters": line.parameters, "scores": dict(line.published)}
                for line in self.table.lines if line.published
            ],
            "lines": [{"line": line.name, "title": line.title} for line in self.lines],
            "cells": [cell.as_json() for cell in self.cells.values()],
            "versions": versions(),
        }  # fmt: skip

    def write(self) -> None:
        found = self.as_json()
        write_json(self.output / "table.json", found)
        write_text(self.output / "table.md", as_markdown(found))

    def _task(self, plan: Plan) -> Task:
        key = _key(plan.task)
        if key not in self._tasks:
            self._tasks[key] = load_task(find(plan.task.task), plan.task)
        return self._tasks[key]

    def _backbone(self, setting: Setting) -> Backbone:
        if setting not in self._backbones:
            self._backbones.clear()  # one at a time in memory
            self._backbones[setting] = open_backbone(setting)
        return self._backbones[setting]


def _listed(names: Sequence[str] | None) -> list[str] | None:
    return None if not names else [name for word in names for name in word.split(",") if name]


def _key(spec: TaskSpec) -> str:
    return spec.model_dump_json()


def reproduce(
    table: str,
    *,
    output: str | Path,
    backbone: str | None = None,
    tasks: Sequence[str] | None = None,
    lines: Sequence[str] | None = None,
    seeds: int | None = None,
    spec: Mapping[str, Any] | None = None,
    setting: Mapping[str, Any] | None = None,
    changes: Mapping[str, Any] | None = None,
    start_from: str | Path | None = None,
    ray: str | None = None,
    workers: int | None = None,
    console: Console | None = None,
) -> dict[str, Any]:
    """Run (or go on with) a paper's table, and print it beside what was published; returns table.json.

    `tasks` and `lines` name a part of it. `spec`, `setting` and `changes` change every run: fields of TaskSpec
    (data_dir, protocol, limit, shots) and Setting (dtype, max_source), and fields of the recipe by name
    (steps, rates.prompt, length). Every prompt starts as the run `start_from` ended, where one is given. With `ray`
    ("auto" or an address) the runs go to `workers` processes of a Ray cluster (softprompt.experiments.cluster.driver).
    """
    console = console or Console(stderr=True, highlight=False)
    chosen = get_table(table)
    made = Reproduction(
        chosen, Path(output), tasks=tasks, lines=lines, seeds=seeds, spec=spec,
        setting={**(setting or {}), "backbone": backbone or chosen.backbone}, changes=changes, start_from=start_from,
    )  # fmt: skip

    def say(text: str) -> None:
        console.print(text, soft_wrap=True, markup=False)

    def notice() -> None:
        say("Ctrl-C: ending after this step, then saving. Press again to end at once.")

    with interruptible(notice) as interrupted, runner(ray, workers, say) as run_jobs:
        return made.run(say, partial(watch, console), interrupted, run_jobs)
