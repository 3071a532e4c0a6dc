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
from softprompt.exchange import export_run, import_run
from softprompt.export import EXPORTS
from softprompt.flags import (
    AsJson,
    BackboneName,
    Batch,
    Checkpointing,
    Compat,
    Compile,
    Config,
    Data,
    DataDir,
    DevFile,
    Device,
    Draw,
    Dtype,
    Label,
    Limit,
    MaxSource,
    PlanFile,
    Protocol,
    RecipeName,
    Set,
    Shots,
    SplitSeed,
    StartFrom,
    TaskName,
    Template,
    TestFile,
    TokensPerPass,
    TokensPerStep,
    Words,
    with_plan,
)
from softprompt.plans import as_yaml
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
    words = with_plan(ctx, said, plan, config, recipe)
    if output is None or not words["backbone"]:
        raise BadInput("train needs --data FILE (or --task NAME), --backbone NAME and --output DIR.")
    commands.train(output=output, overwrite=overwrite, console=err, **words)


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


@app.command("export")
def export_(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run.")],
    output: Annotated[Path, typer.Option(help="Folder to write; it must be new.")],
    to: Annotated[str, typer.Option(help=f"Format: {', '.join(EXPORTS)}.")] = "peft",
    backbone: Annotated[str | None, typer.Option(help="Where the run's backbone lies now.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what --output holds.")] = False,
) -> None:
    """Write a tuned prompt as another library keeps it (docs/peft.md)."""
    err.print(f"{run} is exported to {export_run(run, output, to, backbone, overwrite)}", soft_wrap=True, markup=False)


@app.command("import")
def import_(
    folder: Annotated[Path, typer.Argument(help="Folder that HF PEFT, or the code of DePT's authors, has saved.")],
    backbone: Annotated[str, typer.Option(help="The frozen model it was trained on: a folder or a hub id.")],
    output: Annotated[Path, typer.Option(help="Folder of the run; it must be new.")],
    template: Annotated[str, typer.Option(help="Input text with {columns}, as it was trained with.")] = "{text}",
    choice: Annotated[
        list[str] | None, typer.Option(help="An answer to choose among; repeat it. Free text when not given.")
    ] = None,
    peft_task: Annotated[int | None, typer.Option(min=0, help="Of a multi-task prompt: which task.")] = None,
    max_source: Annotated[
        int | None, typer.Option(min=1, help="Source tokens read: 256, or as many as there are offsets for.")
    ] = None,
    dtype: Dtype = "float32",
    device: Device = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what --output holds.")] = False,
) -> None:
    """Make a run of a prompt that another library has tuned (docs/peft.md)."""
    import_run(
        folder, backbone, output, template=resolve.unescaped(template), choices=choice or [], peft_task=peft_task,
        max_source=max_source, dtype=dtype, device=device, overwrite=overwrite, console=err,
    )  # fmt: skip


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
    report = resolve.check(with_plan(ctx, said, plan, config, recipe), output)
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
