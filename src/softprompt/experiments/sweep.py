"""Sweep: many settings of a recipe, each with the same seeds, tuned in shared batches; dev chooses, test is asked once.

A folder holds OUTPUT/SETTING/seed-N (a run each), floors.json, search.json (what the sweep was asked for), and
table.json, table.md, table.csv. The same call goes on where it was; another grid or more draws add what is new.

With successive halving (Jamieson & Talwalkar 2016, https://proceedings.mlr.press/v51/jamieson16.html) all settings are
tuned to a first rung of steps, the better 1/eta of them on dev to the next, and so on. The learning-rate schedule of
each is that of the full length: a setting that is stopped has seen the beginning of it, high rates and no decay, and
is judged by that. A setting that pays off only late is lost; that is the price.
"""

import hashlib
import json
import math
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from softprompt.backbones import Backbone
from softprompt.errors import BadArtefact, BadInput
from softprompt.experiments.arguments import SweepArguments
from softprompt.experiments.cluster.driver import runner
from softprompt.experiments.jobs import Job, JobSpec, RunJobs, Watch, check_spec, floors_of, of_data, run_jobs
from softprompt.experiments.progress import watch
from softprompt.experiments.reports.sweep_table import as_csv, as_markdown
from softprompt.experiments.search_space import settings_of
from softprompt.methods.registry import canonical_name, spellings
from softprompt.recipes import Recipe
from softprompt.runs.run_folder import versions
from softprompt.runtime.arguments import accepts
from softprompt.runtime.files import make_folder, write_json, write_text
from softprompt.runtime.interrupts import interruptible
from softprompt.training.finish import measure_test
from softprompt.training.request import TrainingRequest, parse_arguments
from softprompt.training.run import open_backbone

FORMAT = 1
SEARCH = "search.json"
FULL_LENGTH = ("steps", "epochs", "evaluate_every", "tokens_per_step")
"""Fields that halving cannot search: rungs are steps that all candidates share."""


@dataclass(frozen=True)
class Candidates:
    """One setting with all its seeds."""

    label: str
    values: dict[str, Any]
    jobs: list[Job]


class Sweep:
    """A sweep on its way."""

    def __init__(
        self,
        output: Path,
        told: TrainingRequest,
        settings: Sequence[Mapping[str, Any]],
        *,
        seeds: int,
        halving: int | None = None,
        max_parallel: int | None = None,
    ) -> None:
        """Raises BadInput and UnknownName for words that cannot be meant, and for a folder of another sweep."""
        if seeds < 1 or (halving is not None and halving < 2):
            raise BadInput(f"--seeds {seeds} --halving {halving}: expected at least 1 seed, and 2 for halving.")
        self.output, self.told, self.seeds, self.halving, self.max_parallel = output, told, seeds, halving, max_parallel
        self.several = len(told.methods) > 1
        self.candidates = self._candidates(settings)
        self.rungs = [] if halving is None else self._rungs(halving)
        self.rounds: list[dict[str, Any]] = []
        self.run_jobs: RunJobs = run_jobs
        self._check_folder()

    def _candidates(self, settings: Sequence[Mapping[str, Any]]) -> list[Candidates]:
        """Every setting of every method; what a method does not have makes no second candidate of it."""
        found: dict[str, Candidates] = {}
        known: set[Recipe | str] = set()
        for values in settings:
            for method, recipe in self.told.recipes(values).items():
                if recipe.model_dump_json() in known:
                    continue
                known.add(recipe.model_dump_json())
                said = ", ".join(f"{name}={_said(value)}" for name, value in values.items())
                labels = [f"{name}: {said}" if self.several else said or name for name in spellings(method)]
                # 0.1.0 named folders by what is an alias now.
                folders = [self.output / folder_name(label) for label in labels]
                folder = next((folder for folder in folders if folder.is_dir()), folders[0])
                jobs = [self._job(labels[0], folder, recipe, i) for i in range(self.seeds)]
                found[labels[0]] = Candidates(labels[0], dict(values), jobs)
        return list(found.values())

    def _job(self, label: str, folder: Path, recipe: Recipe, index: int) -> Job:
        seed = (self.told.seed or 0) + index
        asked = JobSpec(
            task=dict(self.told.task.origin),
            setting=self.told.setting,
            recipe=recipe.model_copy(update={"seed": seed}),
        )
        return Job(
            f"{label} seed {seed}", folder / f"seed-{seed}", asked, self.told.task, self.told.predecessor, test=False
        )

    def _rungs(self, eta: int) -> list[int]:
        """Steps after which the worse are stopped: full length / eta^k, up to a multiple of the evaluations."""
        for candidate in self.candidates:
            searched = [name for name in FULL_LENGTH if name in candidate.values]
            if searched:
                raise BadInput(f"--halving and a search over {searched[0]}: rungs are steps that all settings share.")
        recipes = [candidate.jobs[0].recipe for candidate in self.candidates]
        steps, every = recipes[0].steps, recipes[0].evaluate_every
        if recipes[0].epochs is not None or every == "epoch":
            raise BadInput("--halving counts in steps: give --steps, and --set evaluate_every=N.")
        count = math.floor(math.log(len(self.candidates), eta) + 1e-9)
        found = {every * math.ceil(steps / eta**k / every) for k in range(1, count + 1)}
        rungs = sorted(rung for rung in found if rung < steps)
        if not rungs:
            raise BadInput(
                f"--halving {eta}: {len(self.candidates)} settings of {steps} steps, evaluated every {every}, leave no "
                f"rung. Evaluate more often (--set evaluate_every=N), or search at least {eta} settings."
            )
        return rungs

    def _words(self) -> dict[str, Any]:
        """search.json: what the runs of this folder have in common."""
        told = self.told
        base = {method: recipe.model_dump(mode="json", exclude={"seed"}) for method, recipe in told.recipes().items()}
        asked = JobSpec(task=dict(told.task.origin), setting=told.setting, recipe=Recipe()).of_result()
        start = None if told.predecessor is None else told.predecessor.record.sha256
        words = {"recipes": base, "task": of_data(told.task.origin), "backbone": asked["backbone"],
                 "setting": asked["setting"], "start_from": start, "halving": self.halving}  # fmt: skip
        if self.halving is not None:  # who is stopped depends on who else is there
            words |= {"settings": [candidate.label for candidate in self.candidates], "seeds": self.seeds}
        return json.loads(json.dumps({"format": FORMAT, **words}))  # type: ignore[no-any-return]

    def _check_folder(self) -> None:
        path = self.output / SEARCH
        if self.output.is_dir() and any(self.output.iterdir()) and not path.is_file():
            raise BadInput(f"--output {self.output} holds files and no sweep ({SEARCH}); choose another folder.")
        if path.is_file():
            try:
                was = _named_as_today(json.loads(path.read_text(encoding="utf-8")))
            except (OSError, ValueError) as error:
                raise BadArtefact(f"{path} is no search of ours: {error}. Choose another folder.") from None
            now = self._words()
            other = [name for name in now if was.get(name) != now[name]]
            if other:
                raise BadInput(
                    f"{self.output} holds a sweep with another {' and another '.join(other)} ({SEARCH}). Give the "
                    "words it was begun with (the grid may differ, but not with --halving), or another --output."
                )
        for candidate in self.candidates:
            for job in candidate.jobs:
                check_spec(job.folder, job.asked, job.predecessor)

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
        write_json(self.output / SEARCH, self._words())
        backbone = open_backbone(self.told.setting)
        floors = floors_of(self.output / "floors.json", backbone, self.told.task)
        jobs = [job for candidate in self.candidates for job in candidate.jobs]
        left = sum(not job.finished for job in jobs)
        say(
            f"{self.told.task.name}: {len(self.candidates)} settings, {len(jobs)} runs, of which {left} are to do"
            + (f"; halving at step {', '.join(map(str, self.rungs))}" if self.rungs else "")
        )
        alive = list(self.candidates)
        for rung in self.rungs:
            self._tuned(backbone, alive, floors, say, watch, interrupted, rung)
            alive = self._halved(backbone, alive, floors, rung, say)
        self._tuned(backbone, alive, floors, say, watch, interrupted)
        best = self._best(alive)
        say(f"dev chose {best.label}; its test score is measured now, and no other's")
        for job in best.jobs:
            measure_test(backbone, job.folder, self.told.task)
        found = self.as_json(best)
        self._write(found)
        return found

    def _tuned(
        self, backbone: Backbone, alive: Sequence[Candidates], floors: Mapping[str, dict[str, Any]],
        say: Callable[[str], None], watch: Watch, interrupted: Callable[[], bool], stop_at_step: int | None = None,
    ) -> None:  # fmt: skip
        jobs = [job for candidate in alive for job in candidate.jobs]
        done = self.run_jobs(
            backbone, jobs, floors, watch, interrupted, max_parallel=self.max_parallel, stop_at_step=stop_at_step
        )
        for failure in done:
            say(failure)

    def _halved(
        self, backbone: Backbone, alive: list[Candidates], floors: Mapping[str, dict[str, Any]], rung: int,
        say: Callable[[str], None],
    ) -> list[Candidates]:  # fmt: skip
        """Stop the worse on dev, mean over seeds of the best until `rung`; returns the others in their order."""
        assert self.halving is not None
        metric = self.told.task.metrics[0]
        scores = {c.label: statistics.mean(_best_until(job.folder, metric, rung) for job in c.jobs) for c in alive}
        ranked = sorted(alive, key=lambda candidate: -scores[candidate.label])
        kept = ranked[: math.ceil(len(ranked) / self.halving)]
        stopped = ranked[len(kept) :]
        ends = [
            replace(job, stop=f"halving: place {place} of {len(ranked)} at step {rung}")
            for place, candidate in enumerate(stopped, start=len(kept) + 1) for job in candidate.jobs
        ]  # fmt: skip
        for failure in self.run_jobs(backbone, ends, floors, lambda _: nullcontext(), max_parallel=self.max_parallel):
            say(failure)
        say(f"step {rung}: {len(kept)} of {len(ranked)} settings go on")
        self.rounds.append({"step": rung, "dev": scores, "kept": [candidate.label for candidate in kept]})
        return [candidate for candidate in alive if candidate in kept]

    def _best(self, alive: Sequence[Candidates]) -> Candidates:
        """The best mean dev score over seeds; of equals the first."""
        return max(alive, key=lambda candidate: statistics.mean(_dev(job) for job in candidate.jobs))

    def as_json(self, best: Candidates) -> dict[str, Any]:
        told, metric = self.told, self.told.task.metrics[0]
        rows = [self._row(candidate) for candidate in self.candidates]
        tests = [_card(job)["scores"]["test"] for job in best.jobs]
        scores = [test["metrics"][metric] for test in tests]
        tested = [c.label for c in self.candidates if any("test" in _card(job)["scores"] for job in c.jobs)]
        return {
            "format": FORMAT,
            "task": told.task.name, "metric": metric, "backbone": Path(told.setting.backbone).name,
            "examples": {split: len(examples) for split, examples in told.task.examples.items()},
            "seeds": self.seeds, "runs": self.seeds * len(rows),
            "halving": None if self.halving is None else {"eta": self.halving, "rungs": self.rounds},
            "settings": rows,
            "chosen": {
                **self._row(best),
                "recipe": _recipe_run(best.jobs[0]),
                "test": scores,
                "test_mean": statistics.mean(scores),
                "test_deviation": statistics.stdev(scores) if len(scores) > 1 else None,
                "test_metrics": [test["metrics"] for test in tests],
            },
            "tested": tested,
            "floors": {
                name: found["metrics"][metric]
                for name, found in json.loads((self.output / "floors.json").read_text(encoding="utf-8")).items()
            },
            "versions": versions(),
        }  # fmt: skip

    def _row(self, candidate: Candidates) -> dict[str, Any]:
        cards = [_card(job) for job in candidate.jobs]
        dev = [_dev(job) for job in candidate.jobs]
        first = _recipe_run(candidate.jobs[0])
        return {
            "label": candidate.label, "values": candidate.values, "method": first["method"], "rates": first["rates"],
            "dev": dev, "mean": statistics.mean(dev), "deviation": statistics.stdev(dev) if len(dev) > 1 else None,
            "best_steps": [card["best"]["step"] if card["best"] else 0 for card in cards],
            "stopped": [card["stopped"] for card in cards], "trainable": cards[0]["trainable"],
            "folders": [str(job.folder.relative_to(self.output)) for job in candidate.jobs],
        }  # fmt: skip

    def _write(self, found: Mapping[str, Any]) -> None:
        write_json(self.output / "table.json", found)
        write_text(self.output / "table.md", as_markdown(found))
        write_text(self.output / "table.csv", as_csv(found))


def _named_as_today(words: dict[str, Any]) -> dict[str, Any]:
    """search.json with its methods' aliases replaced."""
    recipes = {
        canonical_name(name): {**recipe, "method": canonical_name(name)}
        for name, recipe in words.get("recipes", {}).items()
    }
    labels = [label.partition(": ") for label in words.get("settings", [])]
    settings = [canonical_name(name) + colon + values for name, colon, values in labels]
    return words | {"recipes": recipes} | ({"settings": settings} if "settings" in words else {})


def folder_name(label: str) -> str:
    """A setting as the name of a folder: what a file system may not take is replaced, and told apart by a hash."""
    spaced = label.replace(", ", "__")
    plain = re.sub(r"[^A-Za-z0-9._=+-]+", "_", spaced)
    if plain == spaced and len(plain) <= 100:
        return plain
    return f"{plain[:100]}-{hashlib.sha256(label.encode()).hexdigest()[:8]}"


def _said(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _recipe_run(job: Job) -> dict[str, Any]:
    """The recipe in a job's run.json, with its method's name of today."""
    recipe: dict[str, Any] = json.loads((job.folder / "run.json").read_text(encoding="utf-8"))["recipe"]
    return {**recipe, "method": job.recipe.method}


def _card(job: Job) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((job.folder / "prompt.json").read_text(encoding="utf-8"))
    return found


def _dev(job: Job) -> float:
    value: float = _card(job)["scores"]["dev"]["metrics"][job.task.metrics[0]]
    return value


def _best_until(folder: Path, metric: str, step: int) -> float:
    """The best dev score of a run up to `step`; below all others without any."""
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").split("\n")
    entries = [json.loads(line) for line in lines if line]
    return max([e["dev"][metric] for e in entries if "dev" in e and e["step"] <= step], default=-math.inf)


def run_sweep(arguments: SweepArguments) -> dict[str, Any]:
    """Search recipe fields and method options, or go on with it; returns what `output`/table.json holds.

    Nothing is loaded or written before all of it is checked.
    """
    console = arguments.console or Console(stderr=True, highlight=False)
    if not arguments.grid and not arguments.ranges:
        raise BadInput("A sweep searches something: --grid FIELD=V1,V2, or --range FIELD=LOW..HIGH with --random N.")
    settings = settings_of(arguments.grid, arguments.ranges, arguments.draws, arguments.draw_seed)
    made = Sweep(
        Path(arguments.output), parse_arguments(arguments), settings, seeds=arguments.seeds,
        halving=arguments.halving, max_parallel=arguments.max_parallel,
    )  # fmt: skip

    def say(text: str) -> None:
        console.print(text, soft_wrap=True, markup=False)

    def notice() -> None:
        say("Ctrl-C: ending after this step, then saving. Press again to end at once.")

    cluster = runner(arguments.ray, arguments.workers, say)
    with interruptible(notice) as interrupted, cluster as run_jobs:
        return made.run(say, partial(watch, console), interrupted, run_jobs)


sweep = accepts(SweepArguments, "sweep")(run_sweep)
