"""Runs on disk: what a folder says before, during and after tuning.

run.json        everything the run was told, written first
metrics.jsonl   losses, learning rates and dev scores, step by step
checkpoint.safetensors   what --resume goes on from; removed when the run is finished
prompt.json ... the artefact, written last (softprompt.artefact)
"""

import importlib.metadata
import json
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, ValidationError

from softprompt import processes
from softprompt.artefact import Card, Prompt, fingerprint, load_prompt, stored
from softprompt.backbones import Backbone, load
from softprompt.disk import make_folder, write_json, write_lines
from softprompt.errors import BadArtefact, BadInput, Interrupted, NotFinite
from softprompt.evaluate import majority, score_task
from softprompt.methods import Site, get_method, make
from softprompt.recipes import Recipe, Setting
from softprompt.report import write_curve, write_model_card
from softprompt.soft import Adapted, Bank, Folded, Unfolded
from softprompt.tasks import Split, Task
from softprompt.tasks.task import Scoring
from softprompt.training.candidate import Candidate
from softprompt.training.checkpoint import FILE, load_checkpoint, save_checkpoint
from softprompt.training.loop import Listener, tune
from softprompt.transfer import Predecessor, StartFrom, read_again, read_sources, source_rows

FORMAT = 1


class Distillation(BaseModel):
    """What MPT's source stage adds to the losses of its tasks (softprompt.training.source_stage)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    teachers: list[StartFrom]
    """The runs that each task's prompt learns from."""
    weight: float
    temperature: float


class RunCard(BaseModel):
    """run.json: enough to do the run again."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: int = FORMAT
    name: str
    recipe: Recipe
    setting: Setting
    task: dict[str, Any]
    start_from: StartFrom | None = None
    sources: list[StartFrom] = []
    """The runs whose prompts the method reads."""
    distillation: Distillation | None = None
    """Of a run on several tasks, whose origins `task` then holds under "tasks"."""
    versions: dict[str, str]


@dataclass
class Run:
    """A candidate and its folder."""

    candidate: Candidate
    folder: Path
    scores: dict[str, Any] = field(default_factory=dict)


def versions(*more: str) -> dict[str, str]:
    """Of Python and of the packages that a run's result depends on, `more` of them for some methods."""
    packages = ("softprompt", "torch", "transformers", "accelerate", *more)
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in packages}


def open_backbone(setting: Setting) -> Backbone:
    """A backbone to train on, in all processes of the run: it remembers what it tokenises."""
    frozen = load(
        setting.backbone, dtype=setting.dtype, device=processes.join(setting.device), max_source=setting.max_source,
        dropout=setting.dropout, gradient_checkpointing=setting.gradient_checkpointing, compile=setting.compile,
        placement=setting.placement, fsdp=setting.fsdp,
    )  # fmt: skip
    frozen.remember()
    return frozen


def make_candidate(
    name: str,
    recipe: Recipe,
    backbone: Backbone,
    task: Task,
    predecessor: Predecessor | None = None,
    sources: Sequence[Predecessor] | None = None,
) -> Candidate:
    """A candidate at its start: the method's own or, where it is given, the end of the run `predecessor`.

    `sources` are the runs whose prompts the method reads: those that its options name when not given, and [] when a
    checkpoint will bring what they held. Raises BadInput when its prompt and targets leave the source no room;
    PromptMismatch or BadArtefact when `predecessor` or a source cannot be used here.
    """
    if predecessor is not None:
        predecessor.prompt.check(backbone)
    options = recipe.parsed_options()
    check_room(options.length, backbone, task)
    sources = read_sources(options) if sources is None else sources
    rows = source_rows(sources, backbone)
    if rows is None and options.runs():
        rows = torch.zeros(len(options.runs()), options.length, backbone.d)
    site = Site(backbone, backbone.max_source, task.choices, recipe.seed, rows, backbone.model)
    method = get_method(recipe.method)
    prompt = make(method, options, site)
    if predecessor is not None:
        predecessor.start(method, prompt)
    prompt = prompt.to(backbone.device)
    if prompt.trainable() == 0:
        raise BadInput(
            f"{recipe.method} with length {options.length} has nothing to train; give it a length of 1 or more."
        )
    resolved = recipe.resolved(backbone.scale(), set(prompt.groups()), len(task.examples["train"]))
    candidate = Candidate(name, prompt, resolved, task, lambda example: backbone.size(example, targets=True))
    candidate.start_from = None if predecessor is None else predecessor.record
    candidate.sources = [source.record for source in sources]
    return candidate


def check_room(length: int, backbone: Backbone, task: Task) -> None:
    """Raise BadInput where `backbone` cannot be asked this task, or `length` rows and the targets leave no room."""
    backbone.check_asked(task.examples["train"][0], task.scoring)
    different = list({(e.target, e.choices): e for e in task.examples["train"]}.values())  # MNLI has three
    backbone.read_targets(different)
    backbone.room(length, max(len(backbone.target_ids(e)) for e in different))
    if task.choices:
        backbone.choice_ids(task.choices)


def check_folder(
    folder: Path, *, overwrite: bool = False, predecessor: Predecessor | None = None, recipes: Iterable[Recipe] = ()
) -> None:
    """Raise BadInput for a folder that already holds something, unless it may be overwritten.

    Never may the folder of `predecessor`, or of a run that one of `recipes` reads.
    """
    if folder.is_file():
        raise BadInput(f"--output {folder} is a file; give a folder.")
    if overwrite and predecessor is not None and folder.resolve() == predecessor.folder.resolve():
        raise BadInput(f"--output {folder} is the run to start from, and would be lost; choose another folder.")
    for recipe in recipes:
        if overwrite and folder.resolve() in [Path(run).resolve() for run in recipe.parsed_options().runs()]:
            raise BadInput(
                f"--output {folder} is a run that {recipe.method} reads, and would be lost; choose another folder."
            )
    if not overwrite and folder.is_dir() and any(folder.iterdir()):
        what = "a finished run" if (folder / "prompt.json").is_file() else "an unfinished run"
        what = what if (folder / "run.json").is_file() else "files"
        raise BadInput(
            f"--output {folder} already holds {what}. Choose another folder, go on with --resume {folder}, "
            "or start over with --overwrite."
        )


def begin(candidate: Candidate, folder: Path, setting: Setting, distillation: Distillation | None = None) -> Run:
    """Make the run's folder and write what it was told."""
    if not processes.is_first():
        return Run(candidate, folder)
    make_folder(folder)
    for stale in ("prompt.json", FILE, "metrics.jsonl"):  # of an overwritten run: never beside the new one's
        (folder / stale).unlink(missing_ok=True)
    card = RunCard(
        name=candidate.name,
        recipe=candidate.recipe,
        setting=setting,
        task=candidate.task.origin,
        start_from=candidate.start_from,
        sources=candidate.sources,
        distillation=distillation,
        versions=versions(*candidate.recipe.parsed_options().packages),
    )
    write_json(folder / "run.json", card.model_dump())
    return Run(candidate, folder)


def read_run_card(folder: Path) -> RunCard:
    """The run.json in `folder`, or a copy of one. Raises BadArtefact."""
    path = folder if folder.is_file() else folder / "run.json"
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(value, dict) and value.get("format") != FORMAT:
            raise BadArtefact(f"{path} has format {value.get('format')!r}; this version of softprompt reads {FORMAT}.")
        return RunCard.model_validate(value)
    except FileNotFoundError:
        raise BadArtefact(f"{folder} holds no run.json, so no run to go on with; give the --output of a run.") from None
    except ValidationError as error:
        first = error.errors()[0]
        raise BadArtefact(f"{path} is no run of ours: {'.'.join(map(str, first['loc']))}: {first['msg']}.") from None
    except (OSError, ValueError) as error:
        raise BadArtefact(f"{path} cannot be read: {error}.") from None


def resume_run(card: RunCard, folder: Path, backbone: Backbone, task: Task) -> Run:
    """The run in `folder` where it was left: at its last checkpoint or, without one, at its start."""
    left = (folder / FILE).is_file()
    # A checkpoint holds all tensors: only a run without one needs the runs that it started from or reads.
    predecessor = None if left or card.start_from is None else read_again(card.start_from)
    sources = [] if left else [read_again(record, "reads") for record in card.sources]
    candidate = make_candidate(card.name, card.recipe, backbone, task, predecessor, sources)
    candidate.start_from, candidate.sources = card.start_from, card.sources
    if left:
        load_checkpoint(candidate, folder)
    return Run(candidate, folder)


def tune_runs(
    backbone: Backbone,
    runs: Iterable[Run],
    *,
    listener: Listener | None = None,
    saved: Callable[[Run], None] | None = None,
    ended: Callable[[Run], None] | None = None,
    interrupted: Callable[[], bool] = lambda: False,
    tokens_per_pass: int | None = None,
    together: int | None = None,
    until: int | None = None,
) -> None:
    """Tune runs together, with checkpoints. Raises Interrupted, after saving, when `interrupted` says so.

    At most `together` are open at a time; the next is asked for when a place is free, and let go when `ended` has
    had it. With `until` they only go to that step. `saved` is called with a run whose checkpoint has been written.
    """
    began: dict[str, Run] = {}

    def candidates() -> Iterator[Candidate]:
        # Of a list, baselines last: one between two soft prompts would keep these out of each other's batches.
        in_order = sorted(runs, key=_is_baseline) if isinstance(runs, Sequence) else runs
        for run in in_order:
            began[run.candidate.name] = run
            _start_alike(run.candidate)
            yield run.candidate

    def save(candidate: Candidate) -> None:
        if processes.is_first():
            folder = began[candidate.name].folder
            write_lines(folder / "metrics.jsonl", candidate.history)
            save_checkpoint(candidate, folder)
        if saved:
            saved(began[candidate.name])

    def let_go(candidate: Candidate) -> None:
        if ended:
            ended(began.pop(candidate.name))

    tune(
        backbone, candidates(), listener=listener, save=save, ended=let_go, interrupted=interrupted,
        tokens_per_pass=tokens_per_pass, together=together, until=until,
    )  # fmt: skip
    processes.wait()  # who ended earlier would have the launcher end the one that saves
    goal = float("inf") if until is None else until
    known = runs if isinstance(runs, Sequence) else began.values()  # some of a list may not have had their turn
    left = [run for run in known if not run.candidate.done and run.candidate.step < goal]
    if left:
        steps = max(run.candidate.step for run in left)
        raise Interrupted(
            f"Interrupted after step {steps}; everything is saved. Go on with: "
            f"softprompt train --resume {' --resume '.join(str(run.folder) for run in left)}"
        )


def _is_baseline(run: Run) -> bool:
    return run.candidate.prompt.kind == "network"


def _start_alike(candidate: Candidate) -> None:
    """Start every process from the first one's values: machines of different kinds may round them differently."""
    processes.agree((candidate.name, candidate.step, candidate.task.origin), "their runs or data")
    candidate.recipe = processes.from_first(candidate.recipe)
    processes.spread(candidate.prompt.state_dict().values())


def finish(backbone: Backbone, run: Run, floors: Mapping[str, dict[str, Any]], *, test: bool = True) -> Prompt:
    """Evaluate the best state on dev, and on test unless told not to, and write the artefact.

    Raises NotFinite after saving.
    """
    candidate, task = run.candidate, run.candidate.task
    candidate.restore_best()
    bank = Bank({candidate.name: candidate.prompt.eval()})
    scores = dict(floors) | _scored(backbone, bank, task, run.folder, ("dev", "test") if test else ("dev",))
    run.scores = scores
    form = candidate.prompt.deployable()
    prompt = Prompt(_card(backbone, candidate, form, scores), form)
    if processes.is_first():
        write_curve(run.folder, candidate.history, candidate.name, task.metrics[0])
        write_model_card(run.folder, prompt.card)
        prompt.save(run.folder, candidate.prompt)
        (run.folder / FILE).unlink(missing_ok=True)
    if candidate.failed:
        best = candidate.best
        kept = f"the best prompt (step {best['step']})" if best else "the last good prompt"
        raise NotFinite(
            f"{candidate.name} stopped: {candidate.stopped}. Saved in {run.folder}: {kept}. Lower its learning rates "
            f"({', '.join(f'{k}={v:g}' for k, v in candidate.recipe.rates.items())}), or use float32."
        )
    return prompt


def measure_test(backbone: Backbone, folder: Path, task: Task) -> Card:
    """The card of a finished run with its test score, which is measured now where it was not yet."""
    prompt = load_prompt(folder)
    if "test" in prompt.card.scores:
        return prompt.card
    prompt.check(backbone)
    bank = Bank({prompt.card.name: prompt.soft_prompt()}).to(backbone.device)
    scores = prompt.card.scores | _scored(backbone, bank, task, folder, ("test",))
    card = prompt.card.model_copy(update={"scores": scores})
    write_model_card(folder, card)
    write_json(folder / "prompt.json", card.model_dump())
    return card


def _scored(
    backbone: Backbone, bank: Bank, task: Task, folder: Path, splits: Sequence[Split]
) -> dict[str, dict[str, Any]]:
    """Scores of the one prompt in `bank`, as JSON, on each split; its answers are written to `folder`."""
    readings: list[tuple[str, Split, Scoring]] = [(split, split, task.scoring) for split in splits]
    if task.choices and "test" in splits and backbone.generates:  # the other way to read an answer, beside the score
        other: Scoring = "generated" if task.scoring == "ranked" else "ranked"
        readings.append((f"test_{other}", "test", other))
    scores = {}
    with backbone.using(bank):
        for name, split, scoring in readings:
            found, records = score_task(backbone, task, split, 0, scoring=scoring)
            scores[name] = found.as_json()
            if processes.is_first():
                write_lines(folder / f"predictions-{name}.jsonl", [record.as_json() for record in records])
    return scores


def floors(backbone: Backbone, task: Task) -> dict[str, dict[str, Any]]:
    """What a tuned prompt must beat on test, as JSON: the commonest answer, and the backbone without a prompt."""
    zero_shot, _ = score_task(backbone, task, "test")
    return {"majority": majority(task, task.examples["test"]).as_json(), "zero_shot": zero_shot.as_json()}


def _card(backbone: Backbone, candidate: Candidate, form: Folded | Unfolded | Adapted, scores: dict[str, Any]) -> Card:
    prompt, recipe, task = candidate.prompt, candidate.recipe, candidate.task
    offset, zeroed = (None, 0) if prompt.offset is None else prompt.offset.fold()
    label, words = task.origin.get("label"), task.origin.get("words")
    return Card(
        name=candidate.name,
        kind=prompt.kind,
        method=recipe.method,
        options=recipe.parsed_options().model_dump(),
        backbone=backbone.name,
        fingerprint=fingerprint(backbone),
        length=prompt.length,
        positions=offset.shape[0] if isinstance(offset, torch.Tensor) else None,
        zeroed=zeroed,
        max_source=backbone.max_source,
        placement=backbone.placement,
        task=task.name,
        template=task.template,
        choices=list(task.choices),
        label=label if isinstance(label, str) else None,
        words=words if isinstance(words, dict) else None,
        metrics=list(task.metrics),
        trainable=prompt.trainable(),
        stored=stored(form),
        seed=recipe.seed,
        start_from=None if candidate.start_from is None else candidate.start_from.name,
        scores=scores,
        best=candidate.best and {k: v for k, v in candidate.best.items() if v == v},
        stopped=candidate.stopped,
        versions=versions(*recipe.parsed_options().packages),
    )
