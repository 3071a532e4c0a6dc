"""Run a table: every line on every task with several seeds, all of a task in the same batches.

A folder holds OUTPUT/TASK/LINE/seed-N (a run each; its plan.json says what the table asked for), TASK/floors.json,
and table.json and table.md, written anew after each task. The same call on the same folder goes on where it was:
finished runs are only read. A call that asks for another recipe, task or setting is refused.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from softprompt.backbones import Backbone, load
from softprompt.disk import make_folder, write_json, write_text
from softprompt.errors import BadArtefact, BadInput, Interrupted, RunFailed
from softprompt.recipes import Plan, Recipe, Setting
from softprompt.recipes.override import override_all
from softprompt.recipes.registry import get_table
from softprompt.recipes.setting import parse_setting
from softprompt.recipes.tables import Column, Line, Table
from softprompt.resolve import make_recipes
from softprompt.scoreboard import Cell, as_markdown, cell_of
from softprompt.tasks import Task
from softprompt.tasks.catalogue import find, load_task
from softprompt.tasks.protocols import get_protocol
from softprompt.tasks.spec import TaskSpec, parse_spec
from softprompt.terminal import TrainingView
from softprompt.training.checkpoint import FILE
from softprompt.training.interrupt import interruptible
from softprompt.training.loop import Listener
from softprompt.training.runs import (
    Run,
    begin,
    finish,
    floors,
    make_candidate,
    read_run_card,
    resume_run,
    tune_runs,
    versions,
)  # fmt: skip
from softprompt.transfer import read_predecessor

PLAN = "plan.json"


@dataclass(frozen=True)
class Job:
    """One run of a table."""

    line: Line
    plan: Plan
    folder: Path

    @property
    def finished(self) -> bool:
        return (self.folder / "prompt.json").is_file()


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
        self.columns, self.lines = table.chosen(_listed(tasks), _listed(lines))
        self.seeds = seeds or table.seeds
        self.spec, self.setting, self.changes = dict(spec or {}), dict(setting or {}), dict(changes or {})
        self.predecessor = None if start_from is None else read_predecessor(start_from)
        self.cells: dict[tuple[str, str], Cell] = {}
        self.floors: dict[str, dict[str, Any]] = {}
        self.jobs = {column.task: self._jobs(column) for column in self.columns}
        self._tasks: dict[str, Task] = {}
        self._backbones: dict[Setting, Backbone] = {}
        for jobs in self.jobs.values():
            for job in jobs:
                self._check(job)

    def _jobs(self, column: Column) -> list[Job]:
        plans = [line.plan(column.task) for line in self.lines if line.plan]
        recipes = [
            self._continued(recipe, plan)
            for recipe, plan in zip(override_all([plan.recipe for plan in plans], self.changes), plans, strict=True)
        ]
        jobs = []
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
                jobs.append(Job(line, own, folder))
        return jobs

    def _check(self, job: Job) -> None:
        """Raise BadInput where the folder holds a run that was asked for in other words."""
        path = job.folder / PLAN
        if not path.is_file():
            return
        try:
            plan = Plan.model_validate_json(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise BadArtefact(
                f"{path} is no plan of ours: {error}. Remove its folder, and the run is done again."
            ) from None
        was, now = _of_result(plan), _of_result(job.plan)
        start = read_run_card(job.folder).start_from if (job.folder / "run.json").is_file() else None
        was["start_from"] = None if start is None else start.sha256
        now["start_from"] = None if self.predecessor is None else self.predecessor.record.sha256
        other = [name for name in now if was.get(name) != now[name]]
        if other:
            raise BadInput(
                f"{job.folder} holds a run with another {' and another '.join(other)} ({PLAN}). Give the words it was "
                "begun with, or another --output."
            )

    def _continued(self, recipe: Recipe, plan: Plan) -> Recipe:
        """With a run to start from, its options where the recipe has none, checked."""
        if self.predecessor is None:
            return recipe
        max_source = self.setting.get("max_source", plan.setting.max_source)
        return make_recipes([recipe.method], {}, None, self.predecessor, max_source, recipe)[recipe.method]

    def run(
        self,
        say: Callable[[str], None],
        watch: Callable[[list[Run]], Any],
        interrupted: Callable[[], bool] = lambda: False,
    ) -> dict[str, Any]:
        """Run what is not finished, task by task; returns what table.json holds.

        `watch` gives a context manager whose value listens to the runs of one task. Raises Interrupted,
        after saving, when `interrupted` says so.
        """
        make_folder(self.output)
        failed: list[str] = []
        for column in self.columns:
            for setting in dict.fromkeys(job.plan.setting for job in self.jobs[column.task]):
                jobs = [job for job in self.jobs[column.task] if job.plan.setting == setting]
                failed += self._tune(column, setting, jobs, say, watch, interrupted)
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
        jobs: list[Job],
        say: Callable[[str], None],
        watch: Callable[[list[Run]], Any],
        interrupted: Callable[[], bool],
    ) -> list[str]:
        """Bring one task's runs in one setting to their end; returns what failed."""
        left = [job for job in jobs if not job.finished]
        path = jobs[0].folder.parents[1] / f"floors{'' if not setting.dropout else '-dropout'}.json"
        if not left and path.is_file():
            say(f"{column.task}: {len(jobs)} runs are finished already")
            return []
        backbone = self._backbone(setting)
        first = self._task(jobs[0].plan)
        rows = "/".join(str(len(examples)) for examples in first.examples.values())
        say(
            f"{column.task}: {rows} train/dev/test examples; {len(left)} of {len(jobs)} runs to do, in the same batches"
        )
        if not path.is_file():
            lowest = floors(backbone, first)
            make_folder(path.parent)
            write_json(path, lowest)
        lowest = json.loads(path.read_text(encoding="utf-8"))
        torch.manual_seed(jobs[0].plan.recipe.seed)  # only dropout draws from it; a checkpoint brings its own state
        runs = [self._begun(job, backbone) for job in left]
        if not runs:
            return []
        listener: Listener
        try:
            with watch(runs) as listener:
                tune_runs(
                    backbone, runs, listener=listener, interrupted=interrupted,
                    tokens_per_pass=setting.tokens_per_pass,
                )  # fmt: skip
        except Interrupted:
            raise Interrupted("Interrupted; everything is saved. The same command goes on from here.") from None
        failed = []
        for run in runs:
            try:
                finish(backbone, run, lowest)
            except RunFailed as error:
                failed.append(str(error))
        return failed

    def _begun(self, job: Job, backbone: Backbone) -> Run:
        """The run of a job at its start, or where it was left. Raises BadInput for a folder of another run."""
        task = self._task(job.plan)
        name = f"{job.line.name}-{task.name}-seed{job.plan.recipe.seed}"
        candidate = make_candidate(name, job.plan.recipe, backbone, task, self.predecessor)
        if not (job.folder / FILE).is_file():
            run = begin(candidate, job.folder, job.plan.setting)
            write_json(job.folder / PLAN, job.plan.model_dump(mode="json", exclude={"sources", "notes", "grid"}))
            return run
        card = read_run_card(job.folder)
        if card.recipe != candidate.recipe or card.task != json.loads(json.dumps(task.origin)):
            raise BadInput(
                f"{job.folder} was begun with another recipe or other data (its run.json). Give the words it was "
                "begun with, or another --output."
            )
        return resume_run(card, job.folder, backbone, task)

    def _gather(self, column: Column) -> None:
        """Read the finished runs of a task into cells."""
        for line in self.lines:
            jobs = [job for job in self.jobs[column.task] if job.line is line and job.finished]
            if jobs:
                tasks = [self._task(job.plan) for job in jobs]
                self.cells[line.name, column.task] = cell_of([job.folder for job in jobs], tasks, column, line)
        folder = self.jobs[column.task][0].folder.parents[1]
        path = next(path for path in (folder / "floors.json", folder / "floors-dropout.json") if path.is_file())
        self.floors[column.task] = json.loads(path.read_text(encoding="utf-8"))

    def as_json(self) -> dict[str, Any]:
        specs = [job.plan.task for job in self.jobs[self.columns[0].task]]
        protocol = get_protocol(specs[0].protocol)
        settings = {job.plan.setting.backbone for jobs in self.jobs.values() for job in jobs}
        return {
            "table": self.table.name, "title": self.table.title, "source": self.table.source,
            "backbone": ", ".join(sorted(Path(name).name for name in settings)), "protocol": protocol.name,
            "protocol_seeds": protocol.seeds, "seeds": self.seeds,
            "changes": self.changes,
            "spec": {name: value for name, value in self.spec.items() if name != "data_dir"},
            "setting": {name: value for name, value in self.setting.items() if name != "backbone"},
            "columns": [{"task": c.task, "metric": c.metric, "heading": c.heading} for c in self.columns],
            "rows": {task: {s: len(r) for s, r in self._tasks[key].examples.items()}
                     for task, key in ((c.task, _key(self.jobs[c.task][0].plan.task)) for c in self.columns)
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
            self._backbones[setting] = load(
                setting.backbone, dtype=setting.dtype, device=setting.device, max_source=setting.max_source,
                dropout=setting.dropout, gradient_checkpointing=setting.gradient_checkpointing,
                compile=setting.compile, placement=setting.placement,
            )  # fmt: skip
            self._backbones[setting].remember()
        return self._backbones[setting]


def _listed(names: Sequence[str] | None) -> list[str] | None:
    return None if not names else [name for word in names for name in word.split(",") if name]


def _of_result(plan: Plan) -> dict[str, Any]:
    """What of a plan the result depends on: not where the data and the backbone lie, nor how it is computed."""
    return {
        "recipe": plan.recipe,
        "task": plan.task.model_dump(exclude={"data_dir"}),
        "backbone": Path(plan.setting.backbone).name,
        "setting": plan.setting.model_dump(include={"dtype", "max_source", "dropout"})
        | ({} if plan.setting.placement == "front" else {"placement": plan.setting.placement}),
    }


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
    console: Console | None = None,
) -> dict[str, Any]:
    """Run (or go on with) a paper's table, and print it beside what was published; returns table.json.

    `tasks` and `lines` name a part of it. `spec`, `setting` and `changes` change every run: fields of TaskSpec
    (data_dir, protocol, limit, shots) and Setting (dtype, max_source), and fields of the recipe by name
    (steps, rates.prompt, length). Every prompt starts as the run `start_from` ended, where one is given.
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

    with interruptible(notice) as interrupted:
        return made.run(say, lambda runs: TrainingView(console, [run.candidate for run in runs]), interrupted)
