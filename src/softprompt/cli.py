"""The command line: one function a verb. JSON goes to stdout alone, everything else to stderr."""

import json
import os
import signal
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from softprompt import commands, resolve, terminal
from softprompt.errors import BadInput, SoftPromptError, UnknownName
from softprompt.plans import as_yaml, plan_words
from softprompt.recipes.registry import get_recipe
from softprompt.reproduce import reproduce as reproduce_table
from softprompt.scoreboard import table_rows
from softprompt.show import columns_of, environment, listed, show_run, show_task
from softprompt.tasks import SPLITS
from softprompt.tasks.spec import as_limit
from softprompt.training.interrupt import raise_interrupted

app = typer.Typer(
    help="Tune soft prompts on frozen language models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
err = Console(stderr=True, highlight=False)
out = Console(highlight=False)

Data = Annotated[Path | None, typer.Option(help="Your own data: .jsonl, .csv, .tsv or .parquet.")]
TaskName = Annotated[
    str | None, typer.Option("--task", help="A task that is shipped or published (`softprompt list tasks`).")
]
BackboneName = Annotated[str, typer.Option(help="Frozen model: smollm2-135m, a folder, or a hub id.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON to stdout.")]
Dtype = Annotated[str, typer.Option(help="float32, bfloat16, float16, or auto: bfloat16 where it is fast.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, mps, ...; the best there is when not given.")]
DataDir = Annotated[
    Path | None, typer.Option(help="Folder of FAMILY/TASK/SPLIT files for --task; without it, from the hub.")
]
Limit = Annotated[
    list[str] | None,
    typer.Option(help="Most rows of each split of --task, drawn with --split-seed; or of one: test=500. Repeatable."),
]
Protocol = Annotated[
    str | None, typer.Option(help="Which rows of --task train, select and test: fair, paper:dept or paper:superpos.")
]
Compat = Annotated[bool | None, typer.Option("--compat", help="With the defects of the protocol's published code.")]
Shots = Annotated[int | None, typer.Option(min=1, help="Few-shot: training examples of each class of --task.")]
Draw = Annotated[int | None, typer.Option(min=0, help="Which few-shot draw.")]
Template = Annotated[
    str | None,
    typer.Option(help="Input text with {columns}, e.g. 'Review: {text}\\nSentiment:'. With --task: words or paper."),
]
Label = Annotated[str | None, typer.Option(help="Column that holds the label; found by its name when not given.")]
Words = Annotated[list[str] | None, typer.Option("--word", help="What to say for a label, as LABEL=WORD; repeat.")]
DevFile = Annotated[Path | None, typer.Option("--dev", help="Dev data; else 10 % of --data, drawn with --split-seed.")]
SplitSeed = Annotated[int, typer.Option(min=0, help="Of the dev and test rows drawn from --data.")]
TestFile = Annotated[Path | None, typer.Option("--test", help="Test data; else 10 % of --data.")]
Set = Annotated[
    list[str] | None, typer.Option("--set", help="Any recipe field or method option, NAME=VALUE (rates.prompt=0.3).")
]
StartFrom = Annotated[
    Path | None, typer.Option(help="Folder of a finished run: start from its prompt and offset (docs/transfer.md).")
]
PlanFile = Annotated[
    Path | None, typer.Argument(help="A config file (YAML or JSON), or the run.json of a run to repeat.")
]
RecipeName = Annotated[
    str | None, typer.Option("--recipe", help="A paper's recipe: dept/glue-rte (`softprompt list recipes`).")
]
Config = Annotated[Path | None, typer.Option("--config", help="A config file; flags beside it go before it.")]
MaxSource = Annotated[int, typer.Option(min=1, help="Source tokens read; longer sources are cut, and counted.")]
Batch = Annotated[int | None, typer.Option(help="Examples a step.")]
TokensPerStep = Annotated[
    int | None, typer.Option(min=1, help="Instead of --batch: as many examples a step as hold this many tokens.")
]
TokensPerPass = Annotated[
    int | None, typer.Option(min=1, help="Most tokens in memory at a time; a larger step is accumulated, exactly.")
]
Checkpointing = Annotated[
    bool, typer.Option("--gradient-checkpointing", help="Compute layers twice instead of keeping them: less memory.")
]
Compile = Annotated[bool, typer.Option("--compile", help="Compile the layers (torch.compile): starts slowly.")]


@app.command()
def train(
    ctx: typer.Context,
    plan: PlanFile = None,
    data: Data = None,
    task: TaskName = None,
    backbone: BackboneName = "",
    output: Annotated[Path | None, typer.Option(help="Folder of the run; it must be new.")] = None,
    method: Annotated[
        list[str] | None, typer.Option(help="Method (prompt_tuning); repeat it to tune several in the same batches.")
    ] = None,
    recipe: RecipeName = None,
    config: Config = None,
    steps: Annotated[int | None, typer.Option(help="Optimizer steps.")] = None,
    batch: Batch = None,
    tokens_per_step: TokensPerStep = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Of the prompt's start and the order of examples.")] = None,
    split_seed: SplitSeed = 0,
    data_dir: DataDir = None,
    limit: Limit = None,
    protocol: Protocol = None,
    compat: Compat = None,
    shots: Shots = None,
    draw: Draw = None,
    template: Template = None,
    label: Label = None,
    word: Words = None,
    dev: DevFile = None,
    test: TestFile = None,
    set_: Set = None,
    start_from: StartFrom = None,
    max_source: MaxSource = 256,
    dtype: Dtype = "float32",
    device: Device = None,
    dropout: Annotated[bool, typer.Option("--dropout", help="Leave the frozen model's own dropout on.")] = False,
    tokens_per_pass: TokensPerPass = None,
    gradient_checkpointing: Checkpointing = False,
    compile_: Compile = False,
    resume: Annotated[list[Path] | None, typer.Option(help="Go on with an interrupted run's folder.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what --output holds.")] = False,
) -> None:
    """Tune one prompt, or one a method, and write it to a folder."""
    if resume:
        commands.resume(resume, err)
        return
    said = {
        "data": data, "task": task, "backbone": backbone, "method": method, "steps": steps, "batch": batch,
        "tokens_per_step": tokens_per_step, "seed": seed, "dev": dev, "test": test,
        "template": template and resolve.unescaped(template), "label": label, "words": resolve.parse_words(word or []),
        "split_seed": split_seed, "data_dir": data_dir, "limit": resolve.parse_limit(limit or []),
        "protocol": protocol, "compat": compat, "shots": shots, "draw": draw,
        "settings": resolve.parse_settings(set_ or []), "start_from": start_from, "dtype": dtype, "device": device,
        "max_source": max_source, "dropout": dropout, "tokens_per_pass": tokens_per_pass,
        "gradient_checkpointing": gradient_checkpointing, "compile": compile_,
    }  # fmt: skip
    words = _with_plan(ctx, said, plan, config, recipe)
    if output is None or not words["backbone"]:
        raise BadInput("train needs --data FILE (or --task NAME), --backbone NAME and --output DIR.")
    commands.train(output=output, overwrite=overwrite, console=err, **words)


def _with_plan(
    ctx: typer.Context, said: dict[str, Any], plan: Path | None, config: Path | None, recipe: str | None
) -> dict[str, Any]:
    """The words of `train`: those of a plan, and before them those of the command line."""
    if plan is not None and config is not None:
        raise BadInput(f"{plan} and --config {config}: give one of them.")
    return said | {k: v for k, v in plan_words(plan or config, recipe).items() if not _was_given(ctx, k)}


def _was_given(ctx: typer.Context, word: str) -> bool:
    """Whether a word of `train` stands on the command line."""
    name = {"settings": "set_", "words": "word", "compile": "compile_", "recipe": ""}.get(word, word)
    source = ctx.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


@app.command()
def reproduce(
    table: Annotated[str, typer.Argument(help="A table (`softprompt list tables`).")],
    output: Annotated[Path | None, typer.Option(help="Folder of its runs; given again, it goes on there.")] = None,
    backbone: Annotated[str | None, typer.Option(help="Frozen model; the table's own when not given.")] = None,
    tasks: Annotated[list[str] | None, typer.Option(help="Only these tasks: rte,cola or repeat.")] = None,
    lines: Annotated[list[str] | None, typer.Option(help="Only these lines of it.")] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="Runs of each cell.")] = None,
    data_dir: DataDir = None,
    limit: Limit = None,
    protocol: Protocol = None,
    compat: Compat = None,
    shots: Shots = None,
    set_: Set = None,
    max_source: Annotated[
        int | None, typer.Option(min=1, help="Source tokens read; the recipe's when not given.")
    ] = None,
    dtype: Dtype = "float32",
    device: Device = None,
    tokens_per_pass: TokensPerPass = None,
    start_from: StartFrom = None,
    as_json: AsJson = False,
) -> None:
    """Run a paper's table, or go on with it, and print it beside the published one."""
    if output is None:
        raise BadInput(f"reproduce {table} needs --output DIR for its runs.")
    spec = {"data_dir": data_dir and str(data_dir), "protocol": protocol, "compat": compat, "shots": shots}
    limits = as_limit(resolve.parse_limit(limit or []))
    found = reproduce_table(
        table, output=output, backbone=backbone, tasks=tasks, lines=lines, seeds=seeds,
        spec={name: value for name, value in {**spec, "limit": limits or None}.items() if value is not None},
        setting={
            name: value
            for name, value in {
                "dtype": dtype, "device": device, "max_source": max_source, "tokens_per_pass": tokens_per_pass
            }.items()
            if value is not None
        },
        changes=resolve.parse_settings(set_ or []), start_from=start_from, console=err,
    )  # fmt: skip
    if as_json:
        _print_json(found)
    else:
        terminal.print_table(out, found["title"], ["", *(c["heading"] for c in found["columns"]), "mean"],
                             table_rows(found))  # fmt: skip


@app.command()
def evaluate(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run.")],
    data: Annotated[Path | None, typer.Option(help="Labelled data, with the columns of the training data.")] = None,
    label: Label = None,
    task: Annotated[str | None, typer.Option(help="Instead of --data: a published task that asks alike.")] = None,
    split: Annotated[str, typer.Option(help="Of --task: train, dev or test.")] = "test",
    data_dir: DataDir = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Most rows of --task, drawn.")] = None,
    generate: Annotated[bool, typer.Option("--generate", help="Score free text, not the likeliest choice.")] = False,
    predictions: Annotated[Path | None, typer.Option(help="Write a record for each example (JSONL) here.")] = None,
    backbone: Annotated[str | None, typer.Option(help="Where the run's backbone lies now.")] = None,
    dtype: Dtype = "float32",
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Score a finished run on labelled data, beside the floors."""
    if split not in SPLITS:
        raise UnknownName("split", split, SPLITS)
    found = commands.evaluate_run(
        run, data, label, generate, predictions, backbone, dtype, device, task, split, data_dir, limit
    )
    if as_json:
        _print_json(found)
    else:
        terminal.print_scores(out, found)


@app.command()
def predict(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run.")],
    text: Annotated[list[str] | None, typer.Argument(help="Texts; without any, stdin is read, a text a line.")] = None,
    data: Annotated[Path | None, typer.Option(help="A file with the template's columns.")] = None,
    backbone: Annotated[str | None, typer.Option(help="Where the run's backbone lies now.")] = None,
    dtype: Dtype = "float32",
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Answer texts with a tuned prompt. Of several columns, a text is a JSON object."""
    answers = commands.predict_run(run, text, data, backbone, dtype, device)
    if as_json:
        _print_json(answers)
    else:
        for answer in answers:
            share = "" if answer["probability"] is None else f"  ({100 * answer['probability']:.0f} %)"
            print(f"{answer['prediction']}{share}")


@app.command()
def show(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run; or the word task or recipe.")],
    name: Annotated[str | None, typer.Argument(help="After the word task or recipe: its name.")] = None,
    words: Annotated[int, typer.Option(min=0, help="Nearest words for each prompt row; 0: none.")] = 5,
    backbone: Annotated[str | None, typer.Option(help="Where the run's backbone lies now.")] = None,
    data_dir: DataDir = None,
    limit: Limit = None,
    protocol: Protocol = None,
    compat: Compat = None,
    shots: Shots = None,
    draw: Draw = None,
    template: Annotated[str | None, typer.Option(help="Of a task: words or paper.")] = None,
    as_json: AsJson = False,
) -> None:
    """Say what a run is: method, sizes, scores, nearest words. Or `show task glue/rte`, `show recipe dept/glue-rte`."""
    if name is not None and str(run) not in ("task", "recipe"):
        raise BadInput(f"show {run} {name}: expected the folder of one run, or task NAME, or recipe NAME.")
    if name is not None and str(run) == "recipe":
        if as_json:
            _print_json(get_recipe(name).model_dump(mode="json", exclude_unset=True))
        else:
            print(as_yaml(get_recipe(name)))
        return
    if name is None:
        found = show_run(run, words, backbone)
        show_it = terminal.print_run
    else:
        found = show_task(
            name, data_dir, template, resolve.parse_limit(limit or []),
            protocol=protocol, compat=compat, shots=shots, draw=draw,
        )  # fmt: skip
        show_it = terminal.print_task
    if as_json:
        _print_json(found)
    else:
        show_it(out, found)


@app.command("list")
def list_(
    what: Annotated[str, typer.Argument(help="methods, backbones, tasks, recipes or tables.")],
    backbone: Annotated[
        str | None, typer.Option(help="Of methods: count what they train and store on this one (no weights are read).")
    ] = None,
    max_source: MaxSource = 256,
    as_json: AsJson = False,
) -> None:
    """List what there is."""
    rows = listed(what, backbone, max_source)
    if as_json:
        _print_json(rows)
        return
    terminal.print_list(out, columns_of(what, rows), rows)


@app.command()
def check(
    ctx: typer.Context,
    plan: PlanFile = None,
    data: Data = None,
    task: TaskName = None,
    backbone: BackboneName = "",
    output: Annotated[Path | None, typer.Option(help="Folder of the run.")] = None,
    method: Annotated[list[str] | None, typer.Option(help="Method; repeatable.")] = None,
    recipe: RecipeName = None,
    config: Config = None,
    steps: Annotated[int | None, typer.Option(help="Optimizer steps.")] = None,
    batch: Batch = None,
    tokens_per_step: TokensPerStep = None,
    split_seed: SplitSeed = 0,
    data_dir: DataDir = None,
    limit: Limit = None,
    protocol: Protocol = None,
    compat: Compat = None,
    shots: Shots = None,
    draw: Draw = None,
    template: Template = None,
    label: Label = None,
    word: Words = None,
    dev: DevFile = None,
    test: TestFile = None,
    set_: Set = None,
    start_from: StartFrom = None,
    max_source: MaxSource = 256,
    dtype: Dtype = "float32",
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Resolve everything that train would, load no weights, and report all problems at once."""
    said = {
        "data": data, "task": task, "backbone": backbone, "method": method, "steps": steps, "batch": batch,
        "tokens_per_step": tokens_per_step, "dev": dev, "test": test,
        "template": template and resolve.unescaped(template), "label": label, "words": word, "split_seed": split_seed,
        "data_dir": data_dir, "limit": limit, "protocol": protocol, "compat": compat, "shots": shots, "draw": draw,
        "settings": set_, "start_from": start_from, "dtype": dtype, "device": device, "max_source": max_source,
    }  # fmt: skip
    report = resolve.check(_with_plan(ctx, said, plan, config, recipe), output)
    if as_json:
        _print_json(report)
    else:
        terminal.print_check(out, report)
    if report["problems"]:
        raise typer.Exit(2)


@app.command()
def env(as_json: AsJson = False) -> None:
    """Say what softprompt runs on here."""
    found = environment()
    if as_json:
        _print_json(found)
    else:
        for name, value in found.items():
            out.print(f"{name:16} {value}", soft_wrap=True)


def _print_json(value: Any) -> None:
    json.dump(value, sys.stdout, indent=2, ensure_ascii=False, allow_nan=False)
    sys.stdout.write("\n")


def main() -> None:
    """Run the command line; our errors become one line and an exit code (1 failed, 2 bad usage)."""
    signal.signal(signal.SIGINT, raise_interrupted)
    warnings.showwarning = lambda message, *_, **__: err.print(f"note: {message}", soft_wrap=True, markup=False)
    try:
        app()
    except SoftPromptError as error:
        text = str(error).replace("[", r"\[")
        err.print(f"[bold red]error:[/] {text}", soft_wrap=True)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        # The reader went away (`| head`): end quietly, as other tools do.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


if __name__ == "__main__":
    main()
