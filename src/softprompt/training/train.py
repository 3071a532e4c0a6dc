"""train(), resume(): shared by the command line and the Python API."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console

from softprompt.backbones import Backbone
from softprompt.errors import BadInput, Interrupted, RunFailed
from softprompt.evaluation.evaluate import ScoresJson
from softprompt.evaluation.floors import FLOORS, measure_floors
from softprompt.recipes import Setting
from softprompt.runs.prompt import Prompt
from softprompt.runs.run_card import read_run_card
from softprompt.runs.run_folder import check_folder, is_finished
from softprompt.runtime import distributed
from softprompt.runtime.arguments import accepts
from softprompt.runtime.interrupts import interruptible
from softprompt.runtime.launch import place
from softprompt.tasks import Task
from softprompt.tasks.registry import task_again
from softprompt.training.arguments import TrainingArguments
from softprompt.training.candidate import make_candidate
from softprompt.training.distillation import resume_distilled
from softprompt.training.finish import finish
from softprompt.training.progress import TrainingView, print_result
from softprompt.training.request import dtype_name, parse_arguments
from softprompt.training.run import Run, begin, open_backbone, resume_run, tune_runs
from softprompt.training.tracking import Tracker, check_trackers, track


def run_training(arguments: TrainingArguments) -> dict[str, Prompt]:
    """Train one prompt per method, all in the same batches, and save each to a folder; returns them by method.

    Baselines (`peft:lora`, `full`) change the network, so they are trained one after another, each on the frozen one.
    One method writes to `output`, several to a folder of their name in it. Without `method` it is that of the run
    `start_from`, else prompt tuning. Nothing is loaded or written before all of it is checked.

    Raises:
      BadInput: An argument, a file or a folder cannot be used; says which, and what to do.
      RunFailed: A run could not end; what is saved is said.
    """
    console = arguments.console or _console()
    trackers = check_trackers(arguments.tracker)
    request = parse_arguments(arguments)
    recipes, predecessor = request.recipes(), request.predecessor
    root = Path(arguments.output)
    folders = {method: root if len(recipes) == 1 else root / method.replace(":", "-") for method in recipes}
    for folder in folders.values():
        check_folder(folder, overwrite=arguments.overwrite, predecessor=predecessor, recipes=recipes.values())
    frozen = open_backbone(request.setting)
    console.print(_describe(request.task, frozen), soft_wrap=True, markup=False)
    candidates = {
        method: make_candidate(f"{method}-{request.task.name}", recipe, frozen, request.task, predecessor)
        for method, recipe in recipes.items()
    }
    runs = [begin(candidate, folders[method], request.setting) for method, candidate in candidates.items()]
    return _train(frozen, runs, console, request.setting, trackers, root, arguments.rivals)


train = accepts(TrainingArguments, "train")(run_training)


def resume(
    folders: Sequence[str | Path],
    console: Console | None = None,
    tracker: Tracker | Sequence[Tracker] | None = None,
) -> dict[str, Prompt]:
    """Go on with interrupted runs: a run's folder, or the folder that several of one call share."""
    console = console or _console()
    trackers = check_trackers(tracker)
    found = [one for folder in folders for one in _run_folders(Path(folder))]
    cards = {folder: read_run_card(folder) for folder in found}
    for folder in found:
        if (folder / "prompt.json").is_file():
            raise BadInput(f"{folder} is a finished run; there is nothing to resume.")
    several = [folder for folder in found if cards[folder].distillation is not None]
    if several and len(found) == 1:
        return resume_distilled(several[0], cards[several[0]], console)
    settings = {card.setting for card in cards.values()}
    if several or len(settings) != 1 or any(card.task != cards[found[0]].task for card in cards.values()):
        raise BadInput("The runs to resume have different backbones, settings or data; resume them one by one.")
    setting = settings.pop()
    frozen = open_backbone(setting)
    runs = []
    for folder, card in cards.items():
        runs.append(resume_run(card, folder, frozen, task_again(card.task)))
        step = runs[-1].candidate.step
        console.print(f"{card.name} goes on after step {step} of {card.recipe.steps}", soft_wrap=True)
    return _train(frozen, runs, console, setting, trackers, Path(folders[0]))


def _train(
    frozen: Backbone,
    runs: list[Run],
    console: Console,
    setting: Setting,
    trackers: Sequence[Tracker],
    root: Path,
    rivals: Sequence[str] = (),
) -> dict[str, Prompt]:
    candidates = [run.candidate for run in runs]
    for candidate in candidates:
        rates = ", ".join(f"{group} {rate:.3g}" for group, rate in candidate.recipe.rates.items())
        start = f"; starts from {candidate.start_from.name}" if candidate.start_from else ""
        console.print(
            f"{candidate.name}: {candidate.prompt.trainable():,} trained values; rates {rates}{start}", soft_wrap=True
        )

    def notice() -> None:
        console.print("Ctrl-C: ending after this step, then saving. Press again to end at once.", soft_wrap=True)

    with (
        TrainingView(console, [candidate.name for candidate in candidates]) as view,
        track(view, trackers, candidates, setting, root) as listener,
        interruptible(notice) as interrupted,
    ):
        tune_runs(frozen, runs, listener=listener, interrupted=interrupted, tokens_per_pass=setting.tokens_per_pass)
    task = candidates[0].task
    console.print(f"evaluating on {len(task.examples['dev'])} dev and {len(task.examples['test'])} test examples")
    try:
        floors = measure_floors(frozen, task, rivals)
        prompts, failed = _finish_each(frozen, runs, floors)
    except Interrupted:
        raise _stopped_scoring(runs) from None
    rows: list[tuple[str, int | None, ScoresJson]] = [
        (title, None, floors[name]) for name, title in FLOORS.items() if name in floors
    ]
    rows += [(run.candidate.name, run.candidate.prompt.trainable(), run.scores["test"]) for run in runs if run.scores]
    print_result(console, task.metrics, rows)
    cut = sum(run.scores["test"]["truncated"] for run in runs if run.scores)
    if cut:
        console.print(f"{cut} test sources were longer than {frozen.max_source} tokens and were cut (--max-source)")
    for run in runs:
        console.print(f"{run.candidate.name} is in {run.folder}", soft_wrap=True)
    if failed:
        raise RunFailed(" ".join(map(str, failed)))
    return prompts


def _finish_each(
    frozen: Backbone, runs: Sequence[Run], floors: Mapping[str, ScoresJson]
) -> tuple[dict[str, Prompt], list[RunFailed]]:
    """Score and save every run; return the prompts by method, and what failed after it was saved."""
    prompts: dict[str, Prompt] = {}
    failed: list[RunFailed] = []
    for run in runs:
        try:
            prompts[run.candidate.recipe.method] = finish(frozen, run, floors)
        except Interrupted:
            raise
        except RunFailed as error:
            failed.append(error)
    return prompts, failed


def _stopped_scoring(runs: Sequence[Run]) -> Interrupted:
    """Return the error of a Ctrl-C after the last step: what is finished, and how to finish the others."""
    done = [str(run.folder) for run in runs if is_finished(run.folder)]
    left = [str(run.folder) for run in runs if not is_finished(run.folder)]
    finished = f" Finished: {', '.join(done)}." if done else ""
    rest = f" Score the rest with: softprompt train --resume {' --resume '.join(left)}" if left else ""
    return Interrupted(
        f"Interrupted while the prompts were scored; their training is complete and saved.{finished}{rest}"
    )


def _console() -> Console:
    return Console(stderr=True, highlight=False, quiet=place().rank > 0)


def _describe(task: Task, frozen: Backbone) -> str:
    rows = "/".join(str(len(examples)) for examples in task.examples.values())
    answers = ", ".join(task.choices) if task.choices else "free text"
    several = f"; {distributed.process_count()} processes" if distributed.process_count() > 1 else ""
    several += ", which share its layers" if frozen.sharded else ""
    placed = "" if frozen.placement == "front" else f", prompts {frozen.placement.replace('_', ' ')}"
    return (
        f"task {task.name}: {rows} train/dev/test examples; template {task.template!r}; answers {answers}\n"
        f"backbone {frozen.name}: {frozen.kind}, d={frozen.d}, {dtype_name(frozen.dtype)}, {frozen.device}"
        f"{placed}{several}" + "".join(f"\nnote: {note}" for note in task.notes)
    )


def _run_folders(folder: Path) -> list[Path]:
    if (folder / "run.json").is_file() or not folder.is_dir():
        return [folder]
    inside = sorted(path.parent for path in folder.glob("*/run.json"))
    return [path for path in inside if not (path / "prompt.json").is_file()] or [folder]
