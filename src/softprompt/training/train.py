"""What the verbs do: the command line and the Python API call the same functions."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from softprompt.backbones import Backbone
from softprompt.errors import BadInput, RunFailed
from softprompt.recipes import Recipe, Setting
from softprompt.runs.prompt import Prompt
from softprompt.runs.run_card import read_run_card
from softprompt.runs.run_folder import check_folder
from softprompt.runtime import distributed
from softprompt.runtime.interrupts import interruptible
from softprompt.tasks import Split, Task
from softprompt.tasks.registry import task_again
from softprompt.training.arguments import parse_arguments, plain
from softprompt.training.candidate import make_candidate
from softprompt.training.distillation import resume_distilled
from softprompt.training.finish import finish, measure_floors
from softprompt.training.progress import TrainingView, print_result
from softprompt.training.run import Run, begin, open_backbone, resume_run, tune_runs
from softprompt.training.tracking import Tracker, check_trackers, tracked


def train(
    *,
    data: str | Path | None = None,
    task: str | Task | None = None,
    backbone: str,
    output: str | Path,
    method: str | Sequence[str] | None = None,
    steps: int | None = None,
    batch: int | None = None,
    tokens_per_step: int | None = None,
    seed: int | None = None,
    recipe: Recipe | None = None,
    dev: str | Path | None = None,
    test: str | Path | None = None,
    template: str | None = None,
    label: str | None = None,
    words: Mapping[str, str] | None = None,
    split_seed: int = 0,
    data_dir: str | Path | None = None,
    limit: int | Mapping[Split, int] | None = None,
    protocol: str | None = None,
    compat: bool | None = None,
    shots: int | None = None,
    draw: int | None = None,
    settings: Mapping[str, Any] | None = None,
    start_from: str | Path | None = None,
    dtype: str = "float32",
    device: str | None = None,
    max_source: int = 256,
    dropout: bool = False,
    tokens_per_pass: int | None = None,
    gradient_checkpointing: bool = False,
    compile: bool = False,
    placement: str = "front",
    fsdp: bool = False,
    tracker: Tracker | Sequence[Tracker] | None = None,
    overwrite: bool = False,
    console: Console | None = None,
) -> dict[str, Prompt]:
    """Tune one prompt a method, all in the same batches, and write a folder for each; returns them by method.

    Baselines (`peft:lora`, `full`) change the network, so they are trained behind one another, each on the frozen one.

    The words are those of `softprompt train`; `settings` is its --set (recipe fields and method options by
    name: "rates.prompt", "length", ...), and `recipe` a whole recipe to change, instead of `method`. One method
    writes to `output`, several to a folder of their name in it. Without `method` it is that of the run
    `start_from`, else prompt tuning. Nothing is loaded or written before all of it is checked.
    """
    console = console or _console()
    trackers = check_trackers(tracker)
    told = parse_arguments(
        data=data, task=task, backbone=backbone, method=method, steps=steps, batch=batch,
        tokens_per_step=tokens_per_step, seed=seed, recipe=recipe, dev=dev, test=test, template=template, label=label,
        words=words, split_seed=split_seed, data_dir=data_dir, limit=limit, protocol=protocol, compat=compat,
        shots=shots, draw=draw, settings=settings, start_from=start_from, dtype=dtype, device=device,
        max_source=max_source, dropout=dropout, tokens_per_pass=tokens_per_pass,
        gradient_checkpointing=gradient_checkpointing, compile=compile, placement=placement, fsdp=fsdp,
    )  # fmt: skip
    recipes, read, setting, predecessor = told.recipes(), told.task, told.setting, told.predecessor
    root = Path(output)
    folders = {method: root if len(recipes) == 1 else root / method.replace(":", "-") for method in recipes}
    for folder in folders.values():
        check_folder(folder, overwrite=overwrite, predecessor=predecessor, recipes=recipes.values())
    frozen = open_backbone(setting)
    setting = setting.model_copy(update={"dtype": plain(frozen.dtype)})  # a resumed run keeps what auto chose
    console.print(_describe(read, frozen), soft_wrap=True, markup=False)
    candidates = {
        method: make_candidate(f"{method}-{read.name}", recipe, frozen, read, predecessor)
        for method, recipe in recipes.items()
    }
    runs = [begin(candidate, folders[method], setting) for method, candidate in candidates.items()]
    return _train(frozen, runs, console, setting, trackers, root)


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
    frozen: Backbone, runs: list[Run], console: Console, setting: Setting, trackers: Sequence[Tracker], root: Path
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
        tracked(view, trackers, candidates, setting, root) as listener,
        interruptible(notice) as interrupted,
    ):
        tune_runs(frozen, runs, listener=listener, interrupted=interrupted, tokens_per_pass=setting.tokens_per_pass)
    task = candidates[0].task
    console.print(f"evaluating on {len(task.examples['dev'])} dev and {len(task.examples['test'])} test examples")
    floors = measure_floors(frozen, task)
    rows: list[tuple[str, Any, dict[str, Any]]] = [
        ("commonest answer", None, floors["majority"]),
        ("no prompt (zero-shot)", None, floors["zero_shot"]),
    ]
    prompts: dict[str, Prompt] = {}
    failed: list[RunFailed] = []
    for run in runs:
        try:
            prompts[run.candidate.recipe.method] = finish(frozen, run, floors)
        except RunFailed as error:
            failed.append(error)
        if run.scores:
            rows.append((run.candidate.name, run.candidate.prompt.trainable(), run.scores["test"]))
    print_result(console, task.metrics, rows)
    cut = sum(run.scores["test"]["truncated"] for run in runs if run.scores)
    if cut:
        console.print(f"{cut} test sources were longer than {frozen.max_source} tokens and were cut (--max-source)")
    for run in runs:
        console.print(f"{run.candidate.name} is in {run.folder}", soft_wrap=True)
    if failed:
        raise RunFailed(" ".join(map(str, failed)))
    return prompts


def _console() -> Console:
    return Console(stderr=True, highlight=False, quiet=distributed.place()[0] > 0)


def _describe(task: Task, frozen: Backbone) -> str:
    rows = "/".join(str(len(examples)) for examples in task.examples.values())
    answers = ", ".join(task.choices) if task.choices else "free text"
    several = f"; {distributed.process_count()} processes" if distributed.process_count() > 1 else ""
    several += ", which share its layers" if frozen.sharded else ""
    placed = "" if frozen.placement == "front" else f", prompts {frozen.placement.replace('_', ' ')}"
    return (
        f"task {task.name}: {rows} train/dev/test examples; template {task.template!r}; answers {answers}\n"
        f"backbone {frozen.name}: {frozen.kind}, d={frozen.d}, {plain(frozen.dtype)}, {frozen.device}{placed}{several}"
    )


def _run_folders(folder: Path) -> list[Path]:
    if (folder / "run.json").is_file() or not folder.is_dir():
        return [folder]
    inside = sorted(path.parent for path in folder.glob("*/run.json"))
    return [path for path in inside if not (path / "prompt.json").is_file()] or [folder]
