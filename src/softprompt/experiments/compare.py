"""Compare methods: each tries as many settings, is tuned for as many steps, and is scored with as many seeds.

The settings are learning rates: TASK/METHOD/rates-xF/seed-0 for F in `factors(budget)`, all of a task in the same
batches; dev chooses one; then the other seeds at that one, and test is scored for those runs alone. The same call on
the same folder goes on where it was. table.json holds everything that was found.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from softprompt.backbones import Backbone
from softprompt.errors import BadInput, UnknownName
from softprompt.experiments.arguments import CompareArguments
from softprompt.experiments.cluster.driver import runner
from softprompt.experiments.costs import measure_costs
from softprompt.experiments.jobs import Job, JobSpec, RunJobs, Watch, check_spec, floors_of, run_jobs
from softprompt.experiments.progress import watch
from softprompt.experiments.reports.comparison_tables import as_csv, as_latex, as_markdown
from softprompt.experiments.reports.html_page import as_page
from softprompt.experiments.reports.svg_figure import as_picture
from softprompt.experiments.standings import floors_in, read_finished, standings
from softprompt.methods.registry import canonical_name, get_method, spellings
from softprompt.recipes import Recipe, Setting
from softprompt.recipes.override import check_names, taken
from softprompt.runs.run_folder import versions
from softprompt.runs.start_from import Predecessor, read_predecessor
from softprompt.runtime.arguments import accepts, given_in, parse_model
from softprompt.runtime.files import make_folder, write_json, write_text
from softprompt.runtime.interrupts import interruptible
from softprompt.tasks import Task
from softprompt.tasks.registry import is_published
from softprompt.training.arguments import CommonArguments
from softprompt.training.finish import measure_test
from softprompt.training.request import FOR_PUBLISHED, TrainingRequest, make_recipes, parse_common
from softprompt.training.run import open_backbone

FORMAT = 1
COMMON = ("steps", "epochs", "batch", "tokens_per_step", "seed")
"""Fields of a recipe that all methods share."""


def factors(budget: int) -> list[float]:
    """What the learning rates of a method are multiplied with, in the order they are tried: 1, 0.3, 3, 0.1, 10, ...

    Half a decade to each side in turn. All rates of a method move together, so methods with one rate and
    with two have as many tries.
    """
    found = [1.0]
    for half in range(1, budget):
        found += [float(f"{10 ** (sign * half / 2):.0e}") for sign in (-1, 1)]
    return found[:budget]


@dataclass(frozen=True)
class Entrant:
    """A method that is compared."""

    name: str
    recipe: Recipe
    predecessor: Predecessor | None = None


def make_entrants(
    methods: Sequence[str], settings: Mapping[str, Any], max_source: int, start_from: Predecessor | None = None
) -> list[Entrant]:
    """The methods with `settings`: names of a recipe for all that have them, METHOD.NAME for one (before the others).

    METHOD.start_from is the run that this method starts from. Raises BadInput and UnknownName.
    """
    methods = [canonical_name(name) for name in methods]
    heads = {name: name.partition(".")[0] for name in settings}
    settings = {name.replace(head, canonical_name(head), 1): settings[name] for name, head in heads.items()}
    if len(set(methods)) != len(methods):
        raise BadInput(f"--methods names {', '.join(methods)}: each method once.")
    for name in methods:
        get_method(name)
    common = {name: value for name, value in settings.items() if name.partition(".")[0] not in methods}
    own = {
        method: {name.partition(".")[2]: value for name, value in settings.items() if name.startswith(f"{method}.")}
        for method in methods
    }
    for method, words in own.items():
        unequal = [name for name in words if name in COMMON]
        if unequal:
            raise BadInput(f"--set {method}.{unequal[0]}: all methods of a comparison have the same {unequal[0]}.")
    predecessors = {
        method: read_predecessor(words.pop("start_from")) if "start_from" in words else start_from
        for method, words in own.items()
    }
    check_names(methods, common)  # what one method takes is no unknown name for the others
    return [
        Entrant(
            method,
            make_recipes([method], taken(method, common) | own[method], None, predecessors[method], max_source)[method],
            predecessors[method],
        )
        for method in methods
    ]


class Comparison:
    """A comparison on its way."""

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
        """Raises BadInput for words that cannot be meant and for a folder that holds other runs."""
        names = [entrant.name for entrant in entrants]
        if baseline not in names:
            raise UnknownName("baseline", baseline, names, "It is one of --methods.")
        if len({task.name for task in tasks}) != len(tasks):
            raise BadInput(f"--task names {', '.join(task.name for task in tasks)}: each task once.")
        self.output, self.tasks, self.setting, self.entrants = output, list(tasks), setting, list(entrants)
        self.seeds, self.budget, self.baseline, self.max_parallel = seeds, budget, baseline, max_parallel
        self.chosen: dict[tuple[str, str], float] = {}
        self.run_jobs: RunJobs = run_jobs
        for task in tasks:
            for entrant in entrants:
                for factor in factors(budget):
                    for seed in range(seeds):
                        job = self._job(task, entrant, factor, seed)
                        check_spec(job.folder, job.asked, entrant.predecessor)

    def _job(self, task: Task, entrant: Entrant, factor: float, seed: int, *, test: bool = False) -> Job:
        recipe = entrant.recipe.model_copy(
            update={"rate_factor": entrant.recipe.rate_factor * factor, "seed": seed}
        )  # fmt: skip
        folder = self._method_folder(task, entrant) / f"rates-x{factor:g}" / f"seed-{seed}"
        asked = JobSpec(task=dict(task.origin), setting=self.setting, recipe=recipe)
        name = f"{entrant.name}-{task.name}-x{factor:g}-seed{seed}"
        return Job(name, folder, asked, task, entrant.predecessor, test)

    def _folder(self, task: Task) -> Path:
        return self.output / task.name.replace("/", "-")

    def _method_folder(self, task: Task, entrant: Entrant) -> Path:
        """The folder of a method's runs, which another version may have named by an alias."""
        folders = [self._folder(task) / name for name in spellings(entrant.name)]
        return next((folder for folder in folders if folder.is_dir()), folders[0])

    def run(
        self,
        say: Callable[[str], None],
        watch: Watch,
        interrupted: Callable[[], bool] = lambda: False,
        run_jobs: RunJobs = run_jobs,
    ) -> dict[str, Any]:
        """Run what is not finished, by `run_jobs`; returns what table.json holds. Raises Interrupted after saving."""
        self.run_jobs = run_jobs
        make_folder(self.output)
        backbone = open_backbone(self.setting)
        parts = []
        for task in self.tasks:
            floors = floors_of(self._folder(task) / "floors.json", backbone, task)
            tries = [self._job(task, e, factor, 0) for e in self.entrants for factor in factors(self.budget)]
            self._announce(say, task, f"{self.budget} settings of each method, seed 0", tries)
            self._tuned(backbone, task, tries, floors, say, watch, interrupted)
            for entrant in self.entrants:
                self.chosen[task.name, entrant.name] = self._choose(task, entrant)
            rest = [job for e in self.entrants for job in self._final(task, e)[1:]]
            self._announce(say, task, "the other seeds at the chosen settings", rest)
            self._tuned(backbone, task, rest, floors, say, watch, interrupted)
            for entrant in self.entrants:
                measure_test(backbone, self._final(task, entrant)[0].folder, task)
            parts.append(self._part(backbone, task))
            self._write(parts)
            say(f"{task.name} is done: {self.output / 'table.md'}")
        return self.as_json(parts)

    def _announce(self, say: Callable[[str], None], task: Task, what: str, jobs: Sequence[Job]) -> None:
        left = sum(not job.finished for job in jobs)
        rows = "/".join(str(len(examples)) for examples in task.examples.values())
        say(f"{task.name} ({rows} train/dev/test examples): {what}; {left} of {len(jobs)} runs to do")

    def _tuned(
        self, backbone: Backbone, task: Task, jobs: Sequence[Job], floors: Mapping[str, dict[str, Any]],
        say: Callable[[str], None], watch: Watch, interrupted: Callable[[], bool],
    ) -> None:  # fmt: skip
        """A run that fails has its score all the same: that of its last good prompt."""
        began = time.monotonic()
        if all(job.finished for job in jobs):
            return
        try:
            for failure in self.run_jobs(backbone, jobs, floors, watch, interrupted, max_parallel=self.max_parallel):
                say(failure)
        finally:
            self._spent(task, time.monotonic() - began)

    def _tried(self, task: Task, entrant: Entrant) -> list[dict[str, Any]]:
        """The settings that were tried, with their dev scores on seed 0."""
        found = []
        for factor in factors(self.budget):
            job = self._job(task, entrant, factor, 0)
            card = json.loads((job.folder / "prompt.json").read_text(encoding="utf-8"))
            rates = json.loads((job.folder / "run.json").read_text(encoding="utf-8"))["recipe"]["rates"]
            dev = card["scores"]["dev"]["metrics"][task.metrics[0]]
            found.append({"factor": factor, "rates": rates, "dev": dev, "stopped": card["stopped"]})
        return found

    def _choose(self, task: Task, entrant: Entrant) -> float:
        """The factor that is best on dev; of equals the one that was tried first."""
        tried = self._tried(task, entrant)
        best: float = max(tried, key=lambda one: one["dev"])["factor"]
        return best

    def _final(self, task: Task, entrant: Entrant) -> list[Job]:
        """The runs that are scored: every seed at the chosen setting."""
        factor = self.chosen[task.name, entrant.name]
        return [self._job(task, entrant, factor, seed, test=True) for seed in range(self.seeds)]

    def _part(self, backbone: Backbone, task: Task) -> dict[str, Any]:
        entries = {e.name: [read_finished(job.folder) for job in self._final(task, e)] for e in self.entrants}
        costs = self._costs(backbone, task)
        rows = standings(entries, self.baseline)
        for row, entrant in zip(rows, self.entrants, strict=True):
            own = costs[entrant.name]
            row["costs"] = {**own, "minutes": own["seconds_per_step"] * row["steps"] / 60}
            row["factor"] = self.chosen[task.name, entrant.name]
            row["tried"] = self._tried(task, entrant)
            row["folders"] = [str(Path(folder).relative_to(self.output)) for folder in row["folders"]]
        return {
            "task": task.name, "metric": task.metrics[0], "baseline": self.baseline,
            "train_examples": len(task.examples["train"]), "dev_examples": len(task.examples["dev"]),
            "test_examples": len(task.examples["test"]), "floors": floors_in(next(iter(entries.values()))),
            "rows": rows, "seconds": self._spent(task),
        }  # fmt: skip

    def _costs(self, backbone: Backbone, task: Task) -> dict[str, Any]:
        """What a step of each method costs, measured now where it was not yet."""
        path = self._folder(task) / "costs.json"
        read: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        known = {canonical_name(name): costs for name, costs in read.items()}
        if any(entrant.name not in known for entrant in self.entrants):
            recipes = {e.name: (self._final(task, e)[0].recipe, e.predecessor) for e in self.entrants}
            found = measure_costs(backbone, task, recipes, self.setting.tokens_per_pass)
            known = {name: costs.as_json() for name, costs in found.items()}
            write_json(path, known)
        return known

    def _spent(self, task: Task, more: float = 0.0) -> float:
        """Seconds that all calls so far have spent on a task."""
        path = self._folder(task) / "seconds.json"
        seconds: float = (json.loads(path.read_text(encoding="utf-8")) if path.is_file() else 0.0) + more
        if more:
            write_json(path, round(seconds, 1))
        return seconds

    def as_json(self, parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        recipe = self.entrants[0].recipe
        length = f"{recipe.epochs} epochs" if recipe.epochs else f"{recipe.steps} steps"
        of = f"{recipe.tokens_per_step} tokens" if recipe.tokens_per_step else f"{recipe.batch} examples"
        tried = ", ".join(f"x{factor:g}" for factor in factors(self.budget))
        return {
            "format": FORMAT,
            "title": f"{len(self.entrants)} methods on {Path(self.setting.backbone).name}",
            "backbone": Path(self.setting.backbone).name,
            "setting": self.setting.model_dump(include={"dtype", "max_source", "dropout"}),
            "budget": self.budget, "factors": factors(self.budget), "seeds": self.seeds, "baseline": self.baseline,
            "steps": recipe.steps if recipe.epochs is None else None, "epochs": recipe.epochs, "batch": recipe.batch,
            "methods": [entrant.name for entrant in self.entrants],
            "notes": [
                f"Every method: {_counted(self.budget, 'tried setting')} (its learning rates {tried}; seed 0, chosen "
                f"by dev), then {_counted(self.seeds, 'seed')} at the chosen one; every run {length} of {of}.",
                *common_notes(self.seeds),
                "tokens/s (source and target tokens, no padding), peak memory and minutes are those of a method tuned "
                "alone: steps timed in turns after the runs, which share their batches. Minutes are those of the "
                "training steps, without evaluations.",
            ],
            "tasks": list(parts),
            "versions": versions(),
        }  # fmt: skip

    def _write(self, parts: Sequence[Mapping[str, Any]]) -> None:
        write_comparison(self.output, self.as_json(parts))


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def common_notes(seeds: int) -> list[str]:
    """How to read the scores."""
    over = "seeds and test examples" if seeds > 1 else "test examples (one seed: nothing is said of seeds)"
    return [
        "Test is scored once, for the chosen setting alone, at the checkpoint that was best on dev. Mean and standard "
        "deviation over seeds, in percent.",
        f"Difference to the baseline with a 95 % interval of the paired bootstrap over {over}; tie: the interval "
        "contains 0. Each interval is for one method; with many methods one in twenty may miss by chance.",
    ]


def write_comparison(output: Path, found: Mapping[str, Any]) -> None:
    """All forms of a comparison, beside each other."""
    write_json(output / "table.json", found)
    write_text(output / "table.md", as_markdown(found))
    write_text(output / "table.csv", as_csv(found))
    write_text(output / "table.tex", as_latex(found))
    write_text(output / "report.html", as_page(found))
    write_text(output / "scores.svg", as_picture(found))


def run_comparison(arguments: CompareArguments) -> dict[str, Any]:
    """Compare methods on tasks with equal budgets, or go on with it; returns what `output`/table.json holds.

    The baseline is prompt_tuning, where it is among the methods, or the first of them. Nothing is loaded or written
    before all of it is checked.
    """
    console = arguments.console or Console(stderr=True, highlight=False)
    methods, seeds, budget = list(arguments.methods), arguments.seeds, arguments.budget
    if seeds < 1 or budget < 1:
        raise BadInput(f"--seeds {seeds} --budget {budget}: expected at least one seed and one setting of each method.")
    if len(methods) < 2:
        raise BadInput(f"--methods {','.join(methods)}: expected two or more to compare.")
    methods = [canonical_name(name) for name in methods]
    requests = parse_each_task(arguments)
    first = requests[0]
    entrants = make_entrants(methods, first.given, first.setting.max_source, first.predecessor)
    default = "prompt_tuning" if "prompt_tuning" in methods else methods[0]
    baseline = canonical_name(arguments.baseline) if arguments.baseline else default
    made = Comparison(
        Path(arguments.output), [one.task for one in requests], first.setting, entrants, seeds=seeds, budget=budget,
        baseline=baseline, max_parallel=arguments.max_parallel,
    )  # fmt: skip

    def say(text: str) -> None:
        console.print(text, soft_wrap=True, markup=False)

    def notice() -> None:
        say("Ctrl-C: ending after this step, then saving. Press again to end at once.")

    cluster = runner(arguments.ray, arguments.workers, say)
    with interruptible(notice) as interrupted, cluster as run_jobs:
        return made.run(say, partial(watch, console), interrupted, run_jobs)


compare = accepts(CompareArguments, "compare")(run_comparison)


def parse_each_task(arguments: CompareArguments) -> list[TrainingRequest]:
    """Resolve the arguments once for each task: beside published tasks, a shipped one takes none of their own."""
    given = arguments.tasks
    tasks = [given] if given is None or isinstance(given, str | Task) else list(given)
    published = [isinstance(one, str) and is_published(one) for one in tasks]
    common = {name: value for name, value in given_in(arguments).items() if name in CommonArguments.model_fields}
    requests = []
    for task, from_hub in zip(tasks, published, strict=True):
        dropped = FOR_PUBLISHED if any(published) and not from_hub else set()
        own = {name: value for name, value in common.items() if name not in dropped}
        requests.append(parse_common(parse_model(CommonArguments, own), task))
    return requests
