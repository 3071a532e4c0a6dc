"""MPT's source stage on disk: finished runs teach a prompt that several tasks share (softprompt.training.source_stage).

OUTPUT          the shared prompt, P* and the means of U_t and V_t: a run that --start-from takes; while it is
                tuned, run.json and the checkpoint that --resume goes on from
OUTPUT/TASK     P* o (U_t V_t): a finished run on that task, as any other
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console

from softprompt.backbones import Backbone
from softprompt.backbones.families import get_family
from softprompt.backbones.load import describe
from softprompt.errors import BadArtefact, BadInput, Interrupted, RunFailed
from softprompt.evaluation.floors import FLOORS, measure_floors
from softprompt.methods.soft_prompt import SoftPrompt
from softprompt.recipes import Recipe, Setting
from softprompt.runs.external import save_unscored, unscored_card
from softprompt.runs.prompt import Prompt
from softprompt.runs.run_card import Distillation, RunCard, read_run_card
from softprompt.runs.run_folder import check_folder
from softprompt.runs.start_from import Predecessor, read_predecessor
from softprompt.runtime.files import make_folder, write_lines
from softprompt.runtime.interrupts import interruptible
from softprompt.runtime.launch import check_single_process
from softprompt.tasks.registry import task_again
from softprompt.training.candidate import make_candidate
from softprompt.training.checkpoint import FILE, load_checkpoint, save_checkpoint
from softprompt.training.finish import finish
from softprompt.training.progress import TrainingView, print_result
from softprompt.training.request import dtype_name, make_recipes
from softprompt.training.run import Run, begin, open_backbone
from softprompt.training.source_stage import SourceStage, tune_source_stage

METHOD = "mpt"


def distil(
    runs: Sequence[str | Path],
    output: str | Path,
    *,
    steps: int | None = None,
    batch: int | None = None,
    seed: int | None = None,
    settings: Mapping[str, object] | None = None,
    weight: float = 0.9,
    temperature: float = 1.0,
    device: str | None = None,
    overwrite: bool = False,
    console: Console | None = None,
) -> dict[str, Prompt]:
    """Train one shared prompt for the tasks of `runs`, with the runs as teachers; returns each task's prompt.

    Task, template, words, backbone and setting are those of the runs, which must agree on the last two.

    Args:
      runs: Folders of finished runs, one per task: the teachers.
      output: Folder of the shared prompt and of a run for each task.
      steps: Optimizer steps.
      batch: Examples of each task in a step.
      seed: Random seed for initialization and data order.
      settings: Recipe fields and method options by name.
      weight: Weight of the distillation losses.
      temperature: Softmax temperature of the distillation loss.
      device: Device; the best there is when not given.
      overwrite: Replace what `output` holds.
      console: Rich console that progress is printed to.
    Raises:
      BadInput, BadArtefact: Before anything is loaded or written.
    """
    check_single_process("distil")
    console = console or Console(stderr=True, highlight=False)
    root, teachers = Path(output), [read_predecessor(run) for run in runs]
    cards = [_card_of(teacher) for teacher in teachers]
    _check_teachers(teachers, cards)
    check_folder(root, overwrite=overwrite)
    if any(root.resolve() in (one.folder.resolve(), *one.folder.resolve().parents) for one in teachers):
        raise BadInput(f"--output {root} holds a run to learn from; choose another folder.")
    length = teachers[0].prompt.card.length
    flags = {name: value for name, value in {"steps": steps, "batch": batch}.items() if value is not None}
    given = {"length": length, **(settings or {}), **flags}
    recipe = make_recipes([METHOD], given, seed)[METHOD]
    _check_recipe(recipe, length)
    setting = cards[0].setting if device is None else cards[0].setting.model_copy(update={"device": device})
    spec = Distillation(teachers=[one.record for one in teachers], weight=weight, temperature=temperature)
    if not get_family(describe(setting.backbone)["kind"]).generates:
        raise BadInput(f"{setting.backbone} fills gaps; softprompt distil works on backbones that write their answers.")
    origins = [card.task for card in cards]
    frozen = open_backbone(setting)
    setting = setting.model_copy(update={"dtype": dtype_name(frozen.dtype)})
    stage = _make_stage(f"{METHOD}-sources", recipe, frozen, origins, teachers)
    for member in stage.members:
        (_folder_of(root, member.task.name) / "prompt.json").unlink(missing_ok=True)  # of an overwritten run
    begin(stage, root, setting, spec)
    return _train_stage(frozen, stage, root, setting, spec, console)


def resume_distilled(folder: Path, card: RunCard, console: Console | None = None) -> dict[str, Prompt]:
    """Go on with an interrupted source stage. It needs its teachers, as they were."""
    check_single_process("distil")
    console = console or Console(stderr=True, highlight=False)
    assert card.distillation is not None
    teachers = []
    for record in card.distillation.teachers:
        teachers.append(read_predecessor(record.folder))
        if teachers[-1].record.sha256 != record.sha256:
            raise BadArtefact(
                f"{folder} learns from {record.folder}, whose tensors are no longer those. Put them back as they were, "
                "or distil anew with --overwrite."
            )
    frozen = open_backbone(card.setting)
    stage = _make_stage(card.name, card.recipe, frozen, card.task["tasks"], teachers)
    if (folder / FILE).is_file():
        load_checkpoint(stage, folder)
    console.print(f"{card.name} goes on after step {stage.step} of {card.recipe.steps}", soft_wrap=True)
    return _train_stage(frozen, stage, folder, card.setting, card.distillation, console)


def _folder_of(root: Path, task: str) -> Path:
    return root / re.sub(r"[^\w.]+", "-", task)


def _card_of(teacher: Predecessor) -> RunCard:
    if not (teacher.folder / "run.json").is_file():
        raise BadInput(
            f"{teacher.folder} holds no run.json, so its task is not known; expected a run of `softprompt train`."
        )
    return read_run_card(teacher.folder)


def _check_teachers(teachers: Sequence[Predecessor], cards: Sequence[RunCard]) -> None:
    if len(teachers) < 2:
        raise BadInput(f"{len(teachers)} run is given; a prompt is shared by two tasks or more. Give their runs.")
    named = [one.prompt.card.task for one in teachers]
    if len({_folder_of(Path(), name) for name in named}) != len(named):
        raise BadInput(f"The runs are on {', '.join(named)}; expected one run a task.")
    for one, card in zip(teachers, cards, strict=True):
        was = one.prompt.card
        if card.distillation is not None or was.kind != "prompt":
            raise BadInput(
                f"{one} cannot be a teacher; expected runs trained on a single task, of kind 'prompt' (prompt_tuning)."
            )
        first, place = teachers[0].prompt.card, cards[0].setting
        if was.length != first.length:
            raise BadInput(
                f"{one} has {was.length} rows, {teachers[0]} {first.length}; teachers and students are of one length."
            )
        if _place(card.setting) != _place(place):
            raise BadInput(
                f"{one} was tuned on {_place(card.setting)}, and {teachers[0]} on {_place(place)}; expected the same."
            )


def _place(setting: Setting) -> str:
    return f"{setting.backbone} with --max-source {setting.max_source} --placement {setting.placement}"


def _check_recipe(recipe: Recipe, length: int) -> None:
    if recipe.parsed_options().length != length:
        raise BadInput(f"length={recipe.parsed_options().length}: the teachers have {length} rows; leave length out.")
    if recipe.epochs is not None or recipe.evaluate_every == "epoch":
        raise BadInput("Several tasks have no epoch in common; give steps, and evaluate_every in steps.")


def _make_stage(
    name: str,
    recipe: Recipe,
    frozen: Backbone,
    origins: Sequence[Mapping[str, object]],
    teachers: Sequence[Predecessor],
) -> SourceStage:
    for teacher in teachers:
        teacher.prompt.check(frozen)
    tasks = [task_again(origin) for origin in origins]
    members = [make_candidate(f"{METHOD}-{task.name}", recipe, frozen, task) for task in tasks]
    return SourceStage(name, members, [one.prompt.soft_prompt().to(frozen.device) for one in teachers])


def _train_stage(
    frozen: Backbone, stage: SourceStage, root: Path, setting: Setting, spec: Distillation, console: Console
) -> dict[str, Prompt]:
    """Tune, then write a run for each task and, last of all, the shared prompt."""

    def save() -> None:
        write_lines(root / "metrics.jsonl", stage.history)
        save_checkpoint(stage, root)

    def notice() -> None:
        console.print("Ctrl-C: ending after this step, then saving. Press again to end at once.", soft_wrap=True)

    rates = ", ".join(f"{group} {rate:.3g}" for group, rate in stage.recipe.rates.items())
    tasks = ", ".join(member.task.name for member in stage.members)
    trained = stage.prompt.trainable()
    console.print(f"{stage.name}: {tasks}; {trained:,} trained values; rates {rates}", soft_wrap=True, markup=False)
    with TrainingView(console, [stage.name]) as view, interruptible(notice) as interrupted:
        tune_source_stage(
            frozen, stage, spec, listener=view, save=save, interrupted=interrupted,
            tokens_per_pass=setting.tokens_per_pass,
        )  # fmt: skip
    if not stage.done:
        raise Interrupted(
            f"Interrupted after step {stage.step}; everything is saved. Go on with: softprompt train --resume {root}"
        )
    stage.hand_on_best()
    prompts, failed = {}, ""
    for member, record in zip(stage.members, spec.teachers, strict=True):
        folder = _folder_of(root, member.task.name)
        make_folder(folder)
        write_lines(folder / "metrics.jsonl", member.history)
        floors = measure_floors(frozen, member.task)
        run = Run(member, folder)
        try:
            prompts[member.task.name] = finish(frozen, run, floors)
        except Interrupted:
            raise
        except RunFailed as error:
            failed = str(error)
        teacher = read_predecessor(record.folder).prompt.card
        console.print(f"{member.task.name}: {folder}", soft_wrap=True, markup=False)
        print_result(
            console, member.task.metrics,
            [
                *((title, None, floors[name]) for name, title in FLOORS.items() if name in floors),
                (f"teacher, {teacher.name}", teacher.trainable, teacher.scores["test"]),
                (member.name, member.prompt.trainable(), run.scores["test"]),
            ],
        )  # fmt: skip
    _save_shared_prompt(frozen, stage, root)
    if failed:
        raise RunFailed(failed)
    how = f"softprompt train --method {METHOD} --start-from {root}"
    console.print(f"the shared prompt is in {root}: {how}", soft_wrap=True, markup=False)
    return prompts


def _save_shared_prompt(frozen: Backbone, stage: SourceStage, root: Path) -> None:
    """Write the shared prompt; a folder that has its prompt.json is whole."""
    made = SoftPrompt(stage.shared.target())
    options = stage.recipe.parsed_options().model_dump()
    card = unscored_card(
        stage.name, made, frozen, template=stage.task.template, choices=(), method=METHOD, options=options,
        task=stage.task.name,
    )  # fmt: skip
    card = card.model_copy(update={"seed": stage.recipe.seed, "best": stage.best, "stopped": stage.stopped})
    origin = f"shared by the tasks {stage.task.name}: where the prompt of another task starts (`--start-from`)"
    save_unscored(Prompt(card, made.fold()), made, root, origin)
    (root / FILE).unlink(missing_ok=True)
