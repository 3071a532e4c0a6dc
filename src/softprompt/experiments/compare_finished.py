"""Compare runs that are finished, wherever they came from: grouped by task and method, on the same test examples."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from softprompt.errors import BadInput, UnknownName
from softprompt.experiments.compare import FORMAT, common_notes, write_comparison
from softprompt.experiments.endpoints import Draws, Entries, draw_endpoints, overall
from softprompt.experiments.finished_run import FinishedRun, read_finished
from softprompt.experiments.standings import floors_in, standings
from softprompt.experiments.tables import ComparisonTable, TaskComparison
from softprompt.methods.registry import canonical_name
from softprompt.runs.run_folder import versions
from softprompt.runtime.files import make_folder


def compare_finished(
    runs: Sequence[str | Path], *, output: str | Path | None = None, baseline: str | None = None
) -> ComparisonTable:
    """Compare the methods of finished runs, as `compare` does; the table is written to `output` where one is given.

    A folder that is not a run stands for all runs in it that have a test score. Raises BadArtefact, and BadInput for
    runs that cannot be compared: other test examples, another backbone, the same method and seed twice.
    """
    finished = [read_finished(folder) for path in runs for folder in _folders(Path(path))]
    by_task: dict[str, list[FinishedRun]] = {}
    for run in finished:
        by_task.setdefault(run.card.task, []).append(run)
    notes: list[str] = []
    parts: list[TaskComparison] = []
    draws: dict[str, Draws] = {}
    for task, own in by_task.items():
        _check_alike(own)
        entries = _entries(own)
        part, draws[task] = _compare_on(task, own, entries, baseline)
        parts.append(part)
        notes += _describe_unequal(task, entries)
    baselines = {part.baseline for part in parts}
    backbones = ", ".join(sorted({Path(run.card.backbone).name for run in finished}))
    table = ComparisonTable(
        format=FORMAT,
        title=f"{len(finished)} finished runs on {backbones}",
        backbone=backbones,
        budget=None,
        notes=[
            "Finished runs do not say how many settings were tried before them: budgets may differ.",
            *notes,
            *common_notes(min(len(row.test) for part in parts for row in part.rows)),
        ],
        tasks=parts,
        overall=overall(draws, parts[0].baseline) if len(parts) > 1 and len(baselines) == 1 else None,
        versions=versions(),
    )
    if output is not None:
        make_folder(Path(output))
        write_comparison(Path(output), table)
    return table


def _compare_on(
    task: str, runs: Sequence[FinishedRun], entries: Entries, baseline: str | None
) -> tuple[TaskComparison, Draws]:
    if len(entries) < 2:
        raise BadInput(f"The runs on {task} are all of one method in one setting ({next(iter(entries))}); give two.")
    chosen = canonical_name(baseline or ("prompt_tuning" if "prompt_tuning" in entries else next(iter(entries))))
    if chosen not in entries:
        raise UnknownName(f"baseline on {task}", chosen, entries)
    seeds = {tuple(run.card.seed for run in each) for each in entries.values()}
    drawn = draw_endpoints(entries, chosen, paired=len(seeds) == 1)
    part = TaskComparison(
        task=task,
        metric=runs[0].metric,
        baseline=chosen,
        test_examples=len(runs[0].answers),
        floors=floors_in(runs),
        rows=standings(entries, chosen, drawn),
    )
    return part, drawn


def _folders(path: Path) -> list[Path]:
    """Return the run at `path`, or the runs with a test score somewhere in it."""
    if not path.is_dir() or (path / "prompt.json").is_file() or (path / "run.json").is_file():
        return [path]  # or what is wrong with it
    inside = sorted(file.parent for file in path.rglob("predictions-test.jsonl"))
    inside = [folder for folder in inside if (folder / "prompt.json").is_file()]
    if not inside:
        raise BadInput(f"{path} holds no finished run with a test score; give runs, or a folder with runs in it.")
    return inside


def _check_alike(runs: Sequence[FinishedRun]) -> None:
    """Raise BadInput for two runs on one task that cannot be compared."""
    first = runs[0]
    for run in runs[1:]:
        pair = f"{first.folder} and {run.folder}"
        if run.questions != first.questions:
            raise BadInput(
                f"{pair} are both on {run.card.task} and were tested on different examples (data, --limit, "
                "--split-seed or template); their scores cannot be compared. Give runs of one of them."
            )
        if run.card.metrics != first.card.metrics:
            raise BadInput(f"{pair} have different metrics on {run.card.task}; their scores cannot be compared.")
        if not run.card.fingerprint.agrees(first.card.fingerprint):
            raise BadInput(
                f"{pair} are prompts of different backbones ({first.card.backbone}, {run.card.backbone}): a comparison "
                "is of methods on one. Give the runs of one backbone at a time."
            )


def _entries(runs: Sequence[FinishedRun]) -> dict[str, list[FinishedRun]]:
    """Group runs by method and, where one has several settings, by what differs; seeds in order."""
    settings: dict[str, list[dict[str, object]]] = {}
    for run in runs:
        known = settings.setdefault(run.card.method, [])
        if _setting(run) not in known:
            known.append(_setting(run))
    entries: dict[str, list[FinishedRun]] = {}
    for run in sorted(runs, key=lambda run: run.card.seed or 0):
        known = settings[run.card.method]
        differ = [name for name in _setting(run) if len({json.dumps(one.get(name)) for one in known}) > 1]
        values = ", ".join(f"{name}={_short(_setting(run)[name])}" for name in differ)
        own = entries.setdefault(f"{run.card.method} ({values})" if values else run.card.method, [])
        twice = [other.folder for other in own if other.card.seed == run.card.seed]
        if twice:
            raise BadInput(
                f"{twice[0]} and {run.folder} are the same method in the same setting with the same seed; give one of "
                "them."
            )
        own.append(run)
    order = list(dict.fromkeys(run.card.method for run in runs))
    return dict(sorted(entries.items(), key=lambda one: (order.index(one[1][0].card.method), one[0])))


def _setting(run: FinishedRun) -> dict[str, object]:
    """Return the recipe of a run without its seed: options, learning rates, length."""
    recipe = run.run_card.recipe
    rates = {f"rates.{group}": rate for group, rate in recipe.rates.items()}
    kept = ("steps", "batch", "tokens_per_step", "decay", "warmup", "schedule", "clip", "optimizer")
    return run.card.options | rates | recipe.model_dump(include=set(kept))


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


COMPARED: dict[str, Callable[[FinishedRun], int | str]] = {
    "steps": lambda run: run.run_card.recipe.steps,
    "examples a step": lambda run: run.run_card.recipe.tokens_per_step or run.run_card.recipe.batch,
    "training data": lambda run: json.dumps(run.run_card.task, sort_keys=True),
    "source limit": lambda run: run.card.max_source,
    "dtype": lambda run: run.run_card.setting.dtype,
}
"""What a note names where it is not the same for all entries."""


def _describe_unequal(task: str, entries: Entries) -> list[str]:
    """Return a note for everything that is not the same for all entries."""
    found = []
    for what, read in COMPARED.items():
        values = {label: sorted({read(run) for run in runs}) for label, runs in entries.items()}
        if len({str(value) for value in values.values()}) > 1:
            each = "; ".join(f"{label} {', '.join(map(str, own))}" for label, own in values.items())
            found.append(f"{task}: unequal {what}{'' if what == 'training data' else f': {each}'}.")
    seeds = {label: len(runs) for label, runs in entries.items()}
    if len(set(seeds.values())) > 1:
        found.append(f"{task}: unequal seeds: {'; '.join(f'{label} {n}' for label, n in seeds.items())}.")
    return found
