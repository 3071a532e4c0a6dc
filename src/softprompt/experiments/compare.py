"""Compare methods: each tries as many settings, is trained for as many steps, and is scored with as many seeds.

The settings are learning rates: TASK/METHOD/rates-xF/seed-0 for F in `list_factors(budget)`, all of a task in the same
batches; dev selects one; then the other seeds at that one, and test is scored for those runs alone. The same call on
the same folder goes on where it was. table.json holds everything that was found.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from softprompt.backbones import Backbone
from softprompt.errors import BadInput, UnknownName
from softprompt.experiments.arguments import CompareArguments
from softprompt.experiments.costs import Costs, measure_costs
from softprompt.experiments.endpoints import Draws, draw_endpoints, overall
from softprompt.experiments.entrants import Entrant, list_factors, make_entrants
from softprompt.experiments.experiment import (
    Experiment,
    count_unfinished,
    describe_examples,
    run_experiment,
    write_table,
)
from softprompt.experiments.finished_run import read_finished
from softprompt.experiments.jobs import Floors, Job, JobSpec, draw_as_before
from softprompt.experiments.power import Variation, describe_power, parse_spread, pilot_spread
from softprompt.experiments.reports.comparison_tables import as_csv, as_latex, as_markdown
from softprompt.experiments.reports.html_page import as_page
from softprompt.experiments.reports.svg_figure import as_picture
from softprompt.experiments.standings import standings
from softprompt.experiments.tables import ComparisonTable, MethodCosts, MethodRow, TaskComparison, TriedSetting
from softprompt.methods.registry import canonical_name, spellings
from softprompt.recipes import Setting
from softprompt.runs.run_card import read_run_card
from softprompt.runs.run_folder import versions
from softprompt.runtime.arguments import accepts, given_in, parse_model
from softprompt.runtime.files import write_json
from softprompt.tasks import Task
from softprompt.tasks.registry import is_published
from softprompt.training.arguments import CommonArguments
from softprompt.training.finish import measure_test
from softprompt.training.request import FOR_PUBLISHED, TrainingRequest, parse_common, settle_dtype

FORMAT = 1
FORMS: Mapping[str, Callable[[ComparisonTable], str]] = {
    "table.md": as_markdown,
    "table.csv": as_csv,
    "table.tex": as_latex,
    "report.html": as_page,
    "scores.svg": as_picture,
}


class Comparison(Experiment[ComparisonTable]):
    """Compares methods on one or more tasks."""

    def __init__(
        self,
        output: Path,
        tasks: Sequence[Task],
        setting: Setting,
        entrants: Sequence[Entrant],
        *,
        seeds: int,
        budget: int,
        baseline: str,
        max_parallel: int | None = None,
    ) -> None:
        """Plan the runs and check their folders.

        Args:
          output: Folder of the comparison.
          tasks: Each has its own part of the table.
          setting: The backbone, the same for all.
          entrants: The methods, with their recipes.
          seeds: Runs of each method at its chosen setting.
          budget: Settings that each method tries.
          baseline: Method that the others are compared with.
          max_parallel: Prompts in memory at a time; None: as many as fit.

        Raises:
          BadInput: A value does not fit, or a folder holds other runs.
          UnknownName: The baseline is not one of the entrants.
        """
        super().__init__(output, max_parallel=max_parallel)
        names = [entrant.name for entrant in entrants]
        if baseline not in names:
            raise UnknownName("baseline", baseline, names, "It is one of --methods.")
        if len({task.name for task in tasks}) != len(tasks):
            raise BadInput(f"--task names {', '.join(task.name for task in tasks)}: each task once.")
        self.tasks, self.setting, self.entrants = list(tasks), setting, list(entrants)
        self.seeds, self.budget, self.baseline = seeds, budget, baseline
        self.factors = list_factors(budget)
        self.chosen: dict[tuple[str, str], float] = {}
        """The factor of the learning rates that dev chose, by task and method."""
        self.parts: list[TaskComparison] = []
        self.draws: dict[str, Draws] = {}
        self.power = ""
        """What the comparison can see, in a sentence."""
        self.check_folders()

    def planned(self) -> Iterator[Job]:
        """Yield the job of every method, factor and seed on every task; not all of them will be run."""
        for task in self.tasks:
            for entrant in self.entrants:
                for factor in self.factors:
                    for seed in range(self.seeds):
                        yield self._job(task, entrant, factor, seed)

    def _job(self, task: Task, entrant: Entrant, factor: float, seed: int, *, test: bool = False) -> Job:
        recipe = entrant.recipe.model_copy(
            update={"rate_factor": entrant.recipe.rate_factor * factor, "seed": seed}
        )  # fmt: skip
        folder = self._method_folder(task, entrant) / f"rates-x{factor:g}" / f"seed-{seed}"
        spec = JobSpec(task=dict(task.origin), setting=self.setting, recipe=recipe)
        name = f"{entrant.name}-{task.name}-x{factor:g}-seed{seed}"
        return Job(name, folder, spec, task, entrant.predecessor, test)

    def _tries(self, task: Task, entrant: Entrant) -> list[Job]:
        return [self._job(task, entrant, factor, 0) for factor in self.factors]

    def _finals(self, task: Task, entrant: Entrant) -> list[Job]:
        """Return the jobs that are scored: every seed at the chosen setting."""
        factor = self.chosen[task.name, entrant.name]
        return [self._job(task, entrant, factor, seed, test=True) for seed in range(self.seeds)]

    def _folder(self, task: Task) -> Path:
        return self.output / task.name.replace("/", "-")

    def _method_folder(self, task: Task, entrant: Entrant) -> Path:
        """Return the folder of a method's runs, which another version may have named by an alias."""
        folders = [self._folder(task) / name for name in spellings(entrant.name)]
        return next((folder for folder in folders if folder.is_dir()), folders[0])

    def train(self) -> None:
        """Bring one task after another to its end, and write the table after each."""
        if self.power:
            self.say(self.power)
        backbone = self.backbone(self.setting)
        self.parts = []
        for task in self.tasks:
            self._train_on(backbone, task)
            self.parts.append(self._compare_on(backbone, task))
            self.write()
            self.say(f"{task.name} is done: {self.output / 'table.md'}")

    def _train_on(self, backbone: Backbone, task: Task) -> None:
        """Train each method's tries, choose one by dev, and train the other seeds there."""
        floors = self._floors(backbone, task)
        tries = [job for entrant in self.entrants for job in self._tries(task, entrant)]
        self._run_and_time(backbone, task, tries, floors, f"{_count(self.budget, 'setting')} of each method, seed 0")
        for entrant in self.entrants:
            # Of equals the one that was tried first.
            best = max(self._read_tries(task, entrant), key=lambda one: one.dev)
            self.chosen[task.name, entrant.name] = best.factor
        rest = [job for entrant in self.entrants for job in self._finals(task, entrant)[1:]]
        self._run_and_time(backbone, task, rest, floors, "the other seeds at the chosen settings")
        for entrant in self.entrants:
            measure_test(backbone, self._finals(task, entrant)[0].folder, task)

    def _floors(self, backbone: Backbone, task: Task) -> Floors:
        return self.floors(self._folder(task) / "floors.json", backbone, task)

    def _run_and_time(self, backbone: Backbone, task: Task, jobs: Sequence[Job], floors: Floors, what: str) -> None:
        left = count_unfinished(jobs)
        self.say(f"{task.name} ({describe_examples(task)}): {what}; {left} of {len(jobs)} runs to do")
        if not left:
            return
        began = time.monotonic()
        try:
            self.run_jobs(backbone, jobs, floors)
        finally:
            self._add_seconds(task, time.monotonic() - began)

    def _read_tries(self, task: Task, entrant: Entrant) -> list[TriedSetting]:
        """Read the settings that were tried, with their dev scores on seed 0."""
        return [
            TriedSetting(
                factor=factor,
                rates=read_run_card(job.folder).recipe.rates,
                dev=job.dev_score(),
                stopped=job.card().stopped,
            )
            for factor, job in zip(self.factors, self._tries(task, entrant), strict=True)
        ]

    def _compare_on(self, backbone: Backbone, task: Task) -> TaskComparison:
        entries = {e.name: [read_finished(job.folder) for job in self._finals(task, e)] for e in self.entrants}
        self.draws[task.name] = drawn = draw_endpoints(entries, self.baseline)
        costs = self._costs(backbone, task)
        rows = [
            self._complete(row, task, entrant, costs[entrant.name])
            for row, entrant in zip(standings(entries, self.baseline, drawn), self.entrants, strict=True)
        ]
        return TaskComparison(
            task=task.name,
            metric=task.metrics[0],
            baseline=self.baseline,
            train_examples=len(task.examples["train"]),
            dev_examples=len(task.examples["dev"]),
            test_examples=len(task.examples["test"]),
            floors={name: one["metrics"][task.metrics[0]] for name, one in self._floors(backbone, task).items()},
            rows=rows,
            seconds=self._seconds(task),
        )

    def _complete(self, row: MethodRow, task: Task, entrant: Entrant, costs: Costs) -> MethodRow:
        """Add to the scores of a method what only this comparison knows: costs and tries."""
        return row.model_copy(
            update={
                "folders": [str(Path(folder).relative_to(self.output)) for folder in row.folders],
                "costs": MethodCosts(**asdict(costs), minutes=costs.seconds_per_step * row.steps / 60),
                "factor": self.chosen[task.name, entrant.name],
                "tried": self._read_tries(task, entrant),
            }
        )

    def _costs(self, backbone: Backbone, task: Task) -> dict[str, Costs]:
        """Read what a step of each method costs; measure it now where it is not known."""
        path = self._folder(task) / "costs.json"
        known: dict[str, Costs] = {}
        if path.is_file():
            read = json.loads(path.read_text(encoding="utf-8"))
            known = {canonical_name(name): Costs(**one) for name, one in read.items()}
        if any(entrant.name not in known for entrant in self.entrants):
            recipes = {e.name: (self._finals(task, e)[0].recipe, e.predecessor) for e in self.entrants}
            known = measure_costs(backbone, task, recipes, self.setting.tokens_per_pass)
            write_json(path, {name: costs.as_json() for name, costs in known.items()})
        return known

    def _seconds(self, task: Task) -> float:
        """Read the seconds that all calls so far have spent on a task."""
        path = self._folder(task) / "seconds.json"
        seconds: float = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else 0.0
        return seconds

    def _add_seconds(self, task: Task, more: float) -> None:
        write_json(self._folder(task) / "seconds.json", round(self._seconds(task) + more, 1))

    def table(self) -> ComparisonTable:
        """Return the comparison on the tasks that are done."""
        recipe = self.entrants[0].recipe
        length = f"{recipe.epochs} epochs" if recipe.epochs else f"{recipe.steps} steps"
        examples = f"{recipe.tokens_per_step} tokens" if recipe.tokens_per_step else f"{recipe.batch} examples"
        factors = ", ".join(f"x{factor:g}" for factor in self.factors)
        backbone = Path(self.setting.backbone).name
        return ComparisonTable(
            format=FORMAT,
            title=f"{len(self.entrants)} methods on {backbone}",
            backbone=backbone,
            setting=self.setting.model_dump(include={"dtype", "max_source", "dropout"}),
            budget=self.budget,
            factors=self.factors,
            seeds=self.seeds,
            baseline=self.baseline,
            steps=recipe.steps if recipe.epochs is None else None,
            epochs=recipe.epochs,
            batch=recipe.batch,
            methods=[entrant.name for entrant in self.entrants],
            notes=[
                f"Every method: {_count(self.budget, 'tried setting')} (its learning rates {factors}; seed 0, chosen "
                f"by dev), then {_count(self.seeds, 'seed')} at the chosen one; every run {length} of {examples}.",
                *common_notes(self.seeds),
                *([self.power] if self.power else []),
                "tokens/s (source and target tokens, no padding), peak memory and minutes are those of a method tuned "
                "alone: steps timed in turns after the runs, which share their batches. Minutes are those of the "
                "training steps, without evaluations.",
            ],
            tasks=list(self.parts),
            overall=overall(self.draws, self.baseline) if len(self.draws) > 1 else None,
            versions=versions(),
        )

    def forms(self) -> Mapping[str, Callable[[ComparisonTable], str]]:
        """Return the tables, the page and the picture."""
        return FORMS


def _count(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def common_notes(seeds: int) -> list[str]:
    """Return the notes that say how to read the scores."""
    over = "seeds and test examples" if seeds > 1 else "test examples (one seed: nothing is said of seeds)"
    return [
        "Test is scored once, for the chosen setting alone, at the checkpoint that was best on dev. Mean and standard "
        "deviation over seeds, in percent.",
        f"Difference to the baseline with a 95 % interval of the paired bootstrap over {over}; tie: the interval "
        "contains 0. Each interval is for one method; with many methods one in twenty may miss by chance.",
    ]


def write_comparison(output: Path, table: ComparisonTable) -> None:
    """Write all forms of a comparison to the folder `output`."""
    write_table(output, table, FORMS)


def run_comparison(arguments: CompareArguments) -> ComparisonTable:
    """Compare methods on tasks with equal budgets, or go on with it; the result is also in `output`/table.json.

    The baseline is prompt_tuning, where it is among the methods, or the first of them. Nothing is loaded or written
    before all of it is checked.
    """
    methods, seeds, budget = list(arguments.methods), arguments.seeds, arguments.budget
    if seeds < 1 or budget < 1:
        raise BadInput(f"--seeds {seeds} --budget {budget}: expected at least one seed and one setting of each method.")
    if len(methods) < 2:
        raise BadInput(f"--methods {','.join(methods)}: expected two or more to compare.")
    requests = parse_each_task(arguments)
    first = requests[0]
    entrants = make_entrants(methods, first.given, first.setting.max_source, first.predecessor)
    names = [entrant.name for entrant in entrants]
    default = "prompt_tuning" if "prompt_tuning" in names else names[0]
    baseline = canonical_name(arguments.baseline) if arguments.baseline else default
    setting = settle_dtype(first.setting, arguments.dtype, {one.recipe.method for one in entrants})
    experiment = Comparison(
        Path(arguments.output), [draw_as_before(one.task, Path(arguments.output)) for one in requests], setting,
        entrants, seeds=seeds, budget=budget, baseline=baseline, max_parallel=arguments.max_parallel,
    )  # fmt: skip
    experiment.rivals = arguments.rivals
    experiment.power = describe_power(
        _spread(arguments), seeds, {one.task.name: len(one.task.examples["test"]) for one in requests}
    )
    return run_experiment(experiment, arguments)


def _spread(arguments: CompareArguments) -> Variation:
    if arguments.spread is not None and arguments.pilot is not None:
        raise BadInput("--spread and --pilot both say how much differences vary; give one.")
    if arguments.pilot is not None:
        return pilot_spread(Path(arguments.pilot))
    return Variation() if arguments.spread is None else parse_spread(arguments.spread)


compare = accepts(CompareArguments, "compare")(run_comparison)


def parse_each_task(arguments: CompareArguments) -> list[TrainingRequest]:
    """Resolve the arguments once for each task; arguments of published tasks do not go to a shipped one beside them."""
    given = arguments.tasks
    tasks = [given] if given is None or isinstance(given, str | Task) else list(given)
    files = [isinstance(one, str) and Path(one).suffix != "" and Path(one).is_file() for one in tasks]
    published = [
        isinstance(one, str) and not a_file and is_published(one) for one, a_file in zip(tasks, files, strict=True)
    ]
    common = {name: value for name, value in given_in(arguments).items() if name in CommonArguments.model_fields}
    requests = []
    for task, from_hub, a_file in zip(tasks, published, files, strict=True):
        dropped = FOR_PUBLISHED if any(published) and not from_hub else set()
        own = {name: value for name, value in common.items() if name not in dropped}
        own |= {"data": task} if a_file else {}
        requests.append(parse_common(parse_model(CommonArguments, own), None if a_file else task))
    return requests
