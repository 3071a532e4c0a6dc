"""Sweep: many settings of a recipe, trained in shared batches with the same seeds; dev selects, test is scored once.

A folder holds OUTPUT/SETTING/seed-N (a run each), floors.json, search.json (the arguments that its runs share), and
table.json, table.md, table.csv. The same call goes on where it was; another grid or more draws add what is new.

With successive halving (Jamieson & Talwalkar 2016, https://proceedings.mlr.press/v51/jamieson16.html) all settings are
trained to a first rung of steps, the better 1/eta of them on dev to the next, and so on. The learning-rate schedule of
each is that of the full length: a setting that is stopped has seen the beginning of it, high rates and no decay, and
is judged by that. A setting that pays off only late is lost; that is the price.
"""

import hashlib
import json
import math
import re
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from softprompt.backbones import Backbone
from softprompt.errors import BadArtefact, BadInput
from softprompt.experiments.arguments import SweepArguments
from softprompt.experiments.experiment import Experiment, count_unfinished, read_floors, run_experiment
from softprompt.experiments.jobs import Floors, Job, JobSpec, draw_as_before, relevant_origin
from softprompt.experiments.reports.sweep_table import as_csv, as_markdown
from softprompt.experiments.search_space import list_settings
from softprompt.experiments.tables import ChosenSetting, Halving, Rung, SettingRow, SplitScores, SweepTable
from softprompt.methods.registry import canonical_name, spellings
from softprompt.recipes import Recipe
from softprompt.runs.run_card import read_run_card
from softprompt.runs.run_folder import versions
from softprompt.runtime.arguments import accepts
from softprompt.runtime.files import write_json
from softprompt.training.finish import measure_test
from softprompt.training.request import TrainingRequest, parse_arguments

FORMAT = 1
SEARCH = "search.json"
FULL_LENGTH = ("steps", "epochs", "evaluate_every", "tokens_per_step")
"""Fields that halving cannot search: rungs are steps that all settings share."""


@dataclass(frozen=True)
class SearchedSetting:
    """A setting of a sweep, with a job for each seed."""

    label: str
    values: dict[str, object]
    jobs: list[Job]

    def dev_score(self) -> float:
        """Return the mean dev score over seeds."""
        return statistics.mean(job.dev_score() for job in self.jobs)


class Sweep(Experiment[SweepTable]):
    """Searches settings of one or more methods on one task."""

    def __init__(
        self,
        output: Path,
        request: TrainingRequest,
        settings: Sequence[Mapping[str, object]],
        *,
        seeds: int,
        halving: int | None = None,
        max_parallel: int | None = None,
    ) -> None:
        """Plan the runs and check their folders.

        Args:
          output: Folder of the sweep.
          request: What all runs share: task, backbone, methods.
          settings: Values by recipe field or method option.
          seeds: Runs of each setting.
          halving: Eta of successive halving; None: every setting is trained to its end.
          max_parallel: Prompts in memory at a time; None: as many as fit.

        Raises:
          BadInput: A value does not fit, or the folder is that of another sweep.
          UnknownName: A setting names what no recipe or method has.
        """
        super().__init__(output, max_parallel=max_parallel)
        if seeds < 1 or (halving is not None and halving < 2):
            raise BadInput(f"--seeds {seeds} --halving {halving}: expected at least 1 seed, and 2 for halving.")
        self.request, self.seeds, self.halving = request, seeds, halving
        self.settings = self._plan(settings)
        self.rungs = [] if halving is None else self._plan_rungs(halving)
        self.past_rungs: list[Rung] = []
        self.best = self.settings[0]
        self._check_search()
        self.check_folders()

    def _plan(self, settings: Sequence[Mapping[str, object]]) -> list[SearchedSetting]:
        """Make every setting of every method; settings that differ in what a method lacks are one."""
        found: dict[str, SearchedSetting] = {}
        known: set[str] = set()
        for values in settings:
            for method, recipe in self.request.recipes(values).items():
                if recipe.model_dump_json() in known:
                    continue
                known.add(recipe.model_dump_json())
                text = ", ".join(f"{name}={_as_text(value)}" for name, value in values.items())
                several = len(self.request.methods) > 1
                label, *others = [f"{name}: {text}" if several else text or name for name in spellings(method)]
                folder = self._folder(label, others)
                jobs = [self._job(label, folder, recipe, i) for i in range(self.seeds)]
                found[label] = SearchedSetting(label, dict(values), jobs)
        return list(found.values())

    def _folder(self, label: str, others: Sequence[str]) -> Path:
        """Return the folder of a setting, which 0.1.0 may have named by what is an alias now, as in `others`."""
        folders = [self.output / folder_name(one) for one in (label, *others)]
        return next((folder for folder in folders if folder.is_dir()), folders[0])

    def _job(self, label: str, folder: Path, recipe: Recipe, index: int) -> Job:
        seed = (self.request.seed or 0) + index
        spec = JobSpec(
            task=dict(self.request.task.origin),
            setting=self.request.setting,
            recipe=recipe.model_copy(update={"seed": seed}),
        )
        name, folder = f"{label} seed {seed}", folder / f"seed-{seed}"
        return Job(name, folder, spec, self.request.task, self.request.predecessor, test=False)

    def _plan_rungs(self, eta: int) -> list[int]:
        """Return the steps after which the worse are stopped: full length / eta^k, up to a multiple of evaluations."""
        for setting in self.settings:
            searched = [name for name in FULL_LENGTH if name in setting.values]
            if searched:
                raise BadInput(f"--halving and a search over {searched[0]}: rungs are steps that all settings share.")
        recipe = self.settings[0].jobs[0].recipe
        steps, every = recipe.steps, recipe.evaluate_every
        if recipe.epochs is not None or every == "epoch":
            raise BadInput("--halving counts in steps: give --steps, and --set evaluate_every=N.")
        count = math.floor(math.log(len(self.settings), eta) + 1e-9)
        found = {every * math.ceil(steps / eta**k / every) for k in range(1, count + 1)}
        rungs = sorted(rung for rung in found if rung < steps)
        if not rungs:
            raise BadInput(
                f"--halving {eta}: {len(self.settings)} settings of {steps} steps, evaluated every {every}, leave no "
                f"rung. Evaluate more often (--set evaluate_every=N), or search at least {eta} settings."
            )
        return rungs

    def _search(self) -> dict[str, object]:
        """Return search.json: the arguments that the runs of this folder share."""
        request = self.request
        recipes = {method: recipe.model_dump(mode="json", exclude={"seed"})
                   for method, recipe in request.recipes().items()}  # fmt: skip
        spec = JobSpec(task=dict(request.task.origin), setting=request.setting, recipe=Recipe()).relevant()
        start = None if request.predecessor is None else request.predecessor.record.sha256
        search = {"format": FORMAT, "recipes": recipes, "task": relevant_origin(request.task.origin),
                  "backbone": spec["backbone"], "setting": spec["setting"], "start_from": start,
                  "halving": self.halving}  # fmt: skip
        if self.halving is not None:  # which settings are stopped depends on which others there are
            search |= {"settings": [setting.label for setting in self.settings], "seeds": self.seeds}
        plain: dict[str, object] = json.loads(json.dumps(search))
        return plain

    def _check_search(self) -> None:
        """Raise BadInput where the folder holds another sweep, or files of something else."""
        path = self.output / SEARCH
        if self.output.is_dir() and any(self.output.iterdir()) and not path.is_file():
            raise BadInput(f"--output {self.output} holds files and no sweep ({SEARCH}); choose another folder.")
        if not path.is_file():
            return
        try:
            was = _as_of_today(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            raise BadArtefact(f"{path} is not a valid search.json: {error}. Choose another folder.") from None
        now = self._search()
        other = [name for name in now if was.get(name) != now[name]]
        if other:
            raise BadInput(
                f"{self.output} holds a sweep with another {' and another '.join(other)} ({SEARCH}). Give the "
                "arguments it was begun with (the grid may differ, but not with --halving), or another --output."
            )

    def planned(self) -> Iterator[Job]:
        """Yield the job of every setting and seed."""
        for setting in self.settings:
            yield from setting.jobs

    def train(self) -> None:
        """Train all settings, stop the worse at each rung, choose by dev and score test of the chosen one."""
        task = self.request.task
        write_json(self.output / SEARCH, self._search())
        backbone = self.backbone(self.request.setting)
        floors = self.floors(self.output / "floors.json", backbone, task)
        jobs = list(self.planned())
        self.say(
            f"{task.name}: {len(self.settings)} settings, {len(jobs)} runs, of which {count_unfinished(jobs)} are to do"
            + (f"; halving at step {', '.join(map(str, self.rungs))}" if self.rungs else "")
        )
        alive = list(self.settings)
        for rung in self.rungs:
            self.run_jobs(backbone, [job for setting in alive for job in setting.jobs], floors, stop_at_step=rung)
            alive = self._stop_the_worse(backbone, alive, floors, rung)
        self.run_jobs(backbone, [job for setting in alive for job in setting.jobs], floors)
        self.best = max(alive, key=SearchedSetting.dev_score)  # of equals the first
        self.say(f"dev chose {self.best.label}; its test score is measured now, and no other's")
        for job in self.best.jobs:
            measure_test(backbone, job.folder, task)

    def _stop_the_worse(
        self, backbone: Backbone, alive: list[SearchedSetting], floors: Floors, rung: int
    ) -> list[SearchedSetting]:
        """Stop the worse on dev (mean over seeds of the best until `rung`); return the others in their order."""
        assert self.halving is not None
        metric = self.request.task.metrics[0]
        scores = {s.label: statistics.mean(_best_until(job.folder, metric, rung) for job in s.jobs) for s in alive}
        ranked = sorted(alive, key=lambda setting: -scores[setting.label])
        kept = ranked[: math.ceil(len(ranked) / self.halving)]
        stopped = [
            replace(job, stop=f"halving: place {place} of {len(ranked)} at step {rung}")
            for place, setting in enumerate(ranked[len(kept) :], start=len(kept) + 1)
            for job in setting.jobs
        ]
        self.run_jobs(backbone, stopped, floors, quiet=True)  # they take no step more
        self.say(f"step {rung}: {len(kept)} of {len(ranked)} settings go on")
        self.past_rungs.append(Rung(step=rung, dev=scores, kept=[setting.label for setting in kept]))
        return [setting for setting in alive if setting in kept]

    def table(self) -> SweepTable:
        """Return the dev scores of all settings and the test scores of the chosen one."""
        request, metric = self.request, self.request.task.metrics[0]
        rows = [_row(setting, self.output) for setting in self.settings]
        tested = [s.label for s in self.settings if any("test" in job.card().scores for job in s.jobs)]
        floors = {name: SplitScores.model_validate(scores)
                  for name, scores in read_floors(self.output / "floors.json").items()}  # fmt: skip
        return SweepTable(
            format=FORMAT,
            task=request.task.name,
            metric=metric,
            backbone=Path(request.setting.backbone).name,
            examples={split: len(examples) for split, examples in request.task.examples.items()},
            seeds=self.seeds,
            runs=self.seeds * len(rows),
            halving=None if self.halving is None else Halving(eta=self.halving, rungs=self.past_rungs),
            settings=rows,
            chosen=_chosen_row(self.best, self.output, metric),
            tested=tested,
            floors={name: scores.metrics[metric] for name, scores in floors.items()},
            versions=versions(),
        )

    def forms(self) -> Mapping[str, Callable[[SweepTable], str]]:
        """Return table.md and table.csv."""
        return {"table.md": as_markdown, "table.csv": as_csv}


def _row(setting: SearchedSetting, output: Path) -> SettingRow:
    cards = [job.card() for job in setting.jobs]
    dev = [job.dev_score() for job in setting.jobs]
    return SettingRow(
        label=setting.label,
        values=setting.values,
        method=setting.jobs[0].recipe.method,
        rates=read_run_card(setting.jobs[0].folder).recipe.rates,
        dev=dev,
        mean=statistics.mean(dev),
        deviation=statistics.stdev(dev) if len(dev) > 1 else None,
        best_steps=[card.best["step"] if card.best else 0 for card in cards],
        stopped=[card.stopped for card in cards],
        trainable=cards[0].trainable,
        folders=[str(job.folder.relative_to(output)) for job in setting.jobs],
    )


def _chosen_row(setting: SearchedSetting, output: Path, metric: str) -> ChosenSetting:
    tests = [SplitScores.model_validate(job.card().scores["test"]) for job in setting.jobs]
    scores = [test.metrics[metric] for test in tests]
    return ChosenSetting(
        **dict(_row(setting, output)),
        recipe=_recipe(setting),
        test=scores,
        test_mean=statistics.mean(scores),
        test_deviation=statistics.stdev(scores) if len(scores) > 1 else None,
        test_metrics=[test.metrics for test in tests],
    )


def _recipe(setting: SearchedSetting) -> dict[str, object]:
    """Read the recipe in run.json, which has the defaults of the method filled in, with the method's name of today."""
    job = setting.jobs[0]
    recipe: dict[str, object] = json.loads((job.folder / "run.json").read_text(encoding="utf-8"))["recipe"]
    return {**recipe, "method": job.recipe.method}


def _as_of_today(search: dict[str, Any]) -> dict[str, Any]:
    """Replace the aliases of methods in a search.json, and add the recipe fields that are newer than it.

    (Any: JSON that another version may have written.)
    """
    newer = Recipe().model_dump(mode="json", exclude={"seed"})
    recipes = {
        canonical_name(name): {**newer, **recipe, "method": canonical_name(name)}
        for name, recipe in search.get("recipes", {}).items()
    }
    labels = [label.partition(": ") for label in search.get("settings", [])]
    settings = [canonical_name(name) + colon + values for name, colon, values in labels]
    return search | {"recipes": recipes} | ({"settings": settings} if "settings" in search else {})


def folder_name(label: str) -> str:
    """Return a setting's label as a folder name: characters that file systems refuse give way to a hash."""
    spaced = label.replace(", ", "__")
    plain = re.sub(r"[^A-Za-z0-9._=+-]+", "_", spaced)
    if plain == spaced and len(plain) <= 100:
        return plain
    return f"{plain[:100]}-{hashlib.sha256(label.encode()).hexdigest()[:8]}"


def _as_text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _best_until(folder: Path, metric: str, step: int) -> float:
    """Return the best dev score of a run up to `step`; -inf without any."""
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").split("\n")
    entries = [json.loads(line) for line in lines if line]
    return max([e["dev"][metric] for e in entries if "dev" in e and e["step"] <= step], default=-math.inf)


def run_sweep(arguments: SweepArguments) -> SweepTable:
    """Search recipe fields and method options, or go on with it; the result is also in `output`/table.json.

    Nothing is loaded or written before all of it is checked.
    """
    if not arguments.grid and not arguments.ranges:
        raise BadInput("A sweep searches something: --grid FIELD=V1,V2, or --range FIELD=LOW..HIGH with --random N.")
    settings = list_settings(arguments.grid, arguments.ranges, arguments.draws, arguments.draw_seed)
    request = parse_arguments(arguments)
    request = replace(request, task=draw_as_before(request.task, Path(arguments.output)))
    experiment = Sweep(
        Path(arguments.output), request, settings, seeds=arguments.seeds,
        halving=arguments.halving, max_parallel=arguments.max_parallel,
    )  # fmt: skip
    experiment.rivals = arguments.rivals
    return run_experiment(experiment, arguments)


sweep = accepts(SweepArguments, "sweep")(run_sweep)
