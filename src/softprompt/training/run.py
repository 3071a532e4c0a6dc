"""Runs in training: a candidate and the folder that it is written to.

run.json        all arguments of the run, written first
metrics.jsonl   losses, learning rates and dev scores, step by step
checkpoint.safetensors   what --resume goes on from; removed when the run is finished
prompt.json ... the artefact, written last (softprompt.runs.prompt)
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from softprompt.backbones import Backbone, load_backbone
from softprompt.errors import Interrupted
from softprompt.evaluation.evaluate import ScoresJson
from softprompt.recipes import Setting
from softprompt.runs.run_card import Distillation, RunCard
from softprompt.runs.run_folder import versions
from softprompt.runs.start_from import read_again
from softprompt.runtime import distributed
from softprompt.runtime.files import make_folder, write_json, write_lines
from softprompt.runtime.threads import settle_threads
from softprompt.tasks import Task
from softprompt.training.candidate import Candidate, make_candidate
from softprompt.training.checkpoint import FILE, load_checkpoint, save_checkpoint
from softprompt.training.loop import Listener, tune


@dataclass
class Run:
    """A candidate and its folder; `scores` by reading, as JSON, once it is finished."""

    candidate: Candidate
    folder: Path
    scores: dict[str, ScoresJson] = field(default_factory=dict)


def open_backbone(setting: Setting) -> Backbone:
    """Load the backbone of a run, in all of its processes; tokens are cached on disk."""
    settle_threads(setting.threads)
    frozen = load_backbone(
        setting.backbone, dtype=setting.dtype, device=distributed.join(setting.device), max_source=setting.max_source,
        dropout=setting.dropout, gradient_checkpointing=setting.gradient_checkpointing, compile=setting.compile,
        placement=setting.placement, fsdp=setting.fsdp,
    )  # fmt: skip
    frozen.tokens.remember()
    return frozen


def begin(candidate: Candidate, folder: Path, setting: Setting, distillation: Distillation | None = None) -> Run:
    """Make the run's folder and write its run.json."""
    if not distributed.is_first():
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


def resume_run(card: RunCard, folder: Path, backbone: Backbone, task: Task) -> Run:
    """Load the run in `folder` at its last checkpoint or, without one, at its start."""
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
    on_checkpoint: Callable[[Run], None] | None = None,
    on_done: Callable[[Run], None] | None = None,
    interrupted: Callable[[], bool] = lambda: False,
    tokens_per_pass: int | None = None,
    max_parallel: int | None = None,
    stop_at_step: int | None = None,
) -> None:
    """Train runs together, with checkpoints.

    Args:
      backbone: The frozen model.
      runs: Read lazily: the next is requested when a slot is free. Of a list, baselines come last.
      listener: Told of every step, evaluation and end.
      on_checkpoint: Called with a run whose checkpoint has been written.
      on_done: Called with a run that is done, which is then let go.
      interrupted: Asked before every step whether to save and stop.
      tokens_per_pass: Maximum tokens of one forward and backward pass.
      max_parallel: Runs in memory at once; None: all.
      stop_at_step: Leave at this step, finished or not.
    Raises:
      Interrupted: `interrupted` said so; everything is saved first, and the message says how to go on.
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
        if distributed.is_first():
            folder = began[candidate.name].folder
            write_lines(folder / "metrics.jsonl", candidate.history)
            save_checkpoint(candidate, folder)
        if on_checkpoint:
            on_checkpoint(began[candidate.name])

    def let_go(candidate: Candidate) -> None:
        if on_done:
            on_done(began.pop(candidate.name))

    tune(
        backbone, candidates(), listener=listener, on_checkpoint=save, on_done=let_go, interrupted=interrupted,
        tokens_per_pass=tokens_per_pass, max_parallel=max_parallel, stop_at_step=stop_at_step,
    )  # fmt: skip
    distributed.wait()  # who ended earlier would have the launcher end the one that saves
    goal = float("inf") if stop_at_step is None else stop_at_step
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
    distributed.agree((candidate.name, candidate.step, candidate.task.origin), "their runs or data")
    candidate.recipe = distributed.from_first(candidate.recipe)
    distributed.copy_from_first(candidate.prompt.state_dict().values())
