"""What the verbs do: the command line and the Python API call the same functions."""

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from softprompt import processes
from softprompt.artefact import Prompt, load_prompt
from softprompt.backbones import Backbone, load
from softprompt.disk import write_lines
from softprompt.distillation import resume_distilled
from softprompt.errors import BadInput, RunFailed
from softprompt.evaluate import Record, evaluate, score
from softprompt.metrics import measure
from softprompt.recipes import Recipe, Setting
from softprompt.resolve import plain, understand
from softprompt.soft import Bank
from softprompt.tasks import (
    Example,
    Split,
    Task,
    Template,
    evaluation_examples,
    read_rows,
    task_again,
    task_like,
)  # fmt: skip
from softprompt.terminal import TrainingView, print_result
from softprompt.training.interrupt import interruptible
from softprompt.training.runs import (
    Run,
    begin,
    check_folder,
    finish,
    floors,
    make_candidate,
    open_backbone,
    read_run_card,
    resume_run,
    tune_runs,
)  # fmt: skip
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
    told = understand(
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


def evaluate_run(
    run: str | Path,
    data: str | Path | None = None,
    label: str | None = None,
    generate: bool = False,
    predictions: str | Path | None = None,
    backbone: str | None = None,
    dtype: str = "float32",
    device: str | None = None,
    task: str | None = None,
    split: Split = "test",
    data_dir: str | Path | None = None,
    limit: int | None = None,
) -> dict[str, Any]:
    """Score a finished run on labelled data, with the floors: the data's commonest answer, and no prompt.

    The data is a file, or a split of a published task that is asked in the words the run was tuned with.
    """
    prompt = load_prompt(run)
    card = prompt.card
    if (data is None) == (task is None):
        raise BadInput("Give either --data FILE or --task NAME to evaluate on.")
    examples, longest = _labelled(prompt, run, data, label), Task.answer_tokens
    if task is not None:
        asked = task_like(task, card.template, tuple(card.choices), data_dir, {split: limit} if limit else None)
        examples, longest = list(asked.examples[split]), asked.answer_tokens
    frozen = load_for(prompt, backbone, dtype, device)
    frozen.remember()
    with frozen.using(Bank({card.name: prompt.soft_prompt()}).to(frozen.device)):
        records = evaluate(frozen, examples, 0, generate=generate, max_new_tokens=longest)
    without = score(evaluate(frozen, examples, generate=generate, max_new_tokens=longest), card.metrics)
    if predictions is not None:
        write_lines(Path(predictions), [record.as_json() for record in records])
    found = score(records, card.metrics)
    commonest = Counter(example.target for example in examples).most_common(1)[0][0]
    golds = [example.golds() for example in examples]
    majority = measure(card.metrics, [commonest] * len(golds), golds, [example.group for example in examples])
    floor = {"majority": majority, "zero_shot": without.metrics}
    on = str(data) if task is None else f"{task}, {split}"
    return {"run": str(run), "name": card.name, "data": on, **found.as_json(), "floors": floor}


def _labelled(prompt: Prompt, run: str | Path, data: str | Path | None, label: str | None) -> list[Example]:
    """The rows of a file as examples; none without a file."""
    card = prompt.card
    column = label or card.label
    if data is None:
        return []
    if column is None:
        raise BadInput(
            f"The run {run} does not know its label column; say which of {data} holds it: --label COLUMN. A run on a "
            "published task is evaluated with --task NAME."
        )
    return evaluation_examples(card.template, tuple(card.choices), Path(data), column, card.words)


def predict_run(
    run: str | Path,
    texts: Sequence[str] | None = None,
    data: str | Path | None = None,
    backbone: str | None = None,
    dtype: str = "float32",
    device: str | None = None,
) -> list[dict[str, Any]]:
    """Answer texts (or the rows of a file, or the lines of stdin) with a finished run's prompt."""
    prompt = load_prompt(run)
    examples = _questions(prompt, texts, data)
    frozen = load_for(prompt, backbone, dtype, device)
    with frozen.using(Bank({prompt.card.name: prompt.soft_prompt()}).to(frozen.device)):
        return [_answer(record) for record in evaluate(frozen, examples, 0)]


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
    lowest = floors(frozen, task)
    rows: list[tuple[str, Any, dict[str, Any]]] = [
        ("commonest answer", None, lowest["majority"]),
        ("no prompt (zero-shot)", None, lowest["zero_shot"]),
    ]
    prompts: dict[str, Prompt] = {}
    failed: list[RunFailed] = []
    for run in runs:
        try:
            prompts[run.candidate.recipe.method] = finish(frozen, run, lowest)
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
    return Console(stderr=True, highlight=False, quiet=processes.place()[0] > 0)


def load_for(prompt: Prompt, backbone: str | None, dtype: str, device: str | None) -> Backbone:
    card = prompt.card
    frozen = load(
        backbone or card.backbone, dtype=dtype, device=device, max_source=card.max_source, placement=card.placement
    )
    prompt.check(frozen)
    return frozen


def _describe(task: Task, frozen: Backbone) -> str:
    rows = "/".join(str(len(examples)) for examples in task.examples.values())
    answers = ", ".join(task.choices) if task.choices else "free text"
    several = f"; {processes.count()} processes" if processes.count() > 1 else ""
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


def _questions(prompt: Prompt, texts: Sequence[str] | None, data: str | Path | None) -> list[Example]:
    form, choices = Template(prompt.card.template), tuple(prompt.card.choices)
    if data is not None:
        if texts:
            raise BadInput("Give texts or --data, not both.")
        rows = [row.values for row in read_rows(Path(data))]
    else:
        lines = texts or [line.rstrip("\n") for line in sys.stdin if line.strip()]
        if not lines:
            raise BadInput("Nothing to answer: give texts, --data FILE, or lines on stdin.")
        rows = [form.row(line) for line in lines]
    for row in rows:
        form.check(row)
    first = choices[0] if choices else ""
    return [Example(form.source(row), first, form.cue, choices, answer_at=form.answer_at(row)) for row in rows]


def _answer(record: Record) -> dict[str, Any]:
    shares = None
    if record.scores:
        values = torch.tensor(list(record.scores.values()), dtype=torch.float64).softmax(0).tolist()
        shares = dict(zip(record.scores, values, strict=True))
    return {
        "source": record.source,
        "prediction": record.prediction,
        "probability": shares and shares[record.prediction],
        "probabilities": shares,
        "truncated": record.truncated,
    }
