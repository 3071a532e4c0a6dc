"""Tune prompts, and look first at what would be tuned."""

from pathlib import Path
from typing import Annotated

import typer

from softprompt import commands, processes, resolve, terminal
from softprompt.check import check as check_words
from softprompt.cli.app import app, err, out, print_json
from softprompt.cli.flags import (
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
    Fsdp,
    Label,
    Limit,
    MaxSource,
    Placement,
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
    Trackers,
    Words,
    with_plan,
)
from softprompt.errors import BadInput


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
    placement: Placement = "front",
    dtype: Dtype = "float32",
    device: Device = None,
    dropout: Annotated[bool, typer.Option("--dropout", help="Leave the frozen model's own dropout on.")] = False,
    tokens_per_pass: TokensPerPass = None,
    gradient_checkpointing: Checkpointing = False,
    compile_: Compile = False,
    fsdp: Fsdp = False,
    tracker: Trackers = None,
    resume: Annotated[list[Path] | None, typer.Option(help="Go on with an interrupted run's folder.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what --output holds.")] = False,
) -> None:
    """Tune one prompt, or one a method, and write it to a folder."""
    if resume:
        commands.resume(resume, err, tracker)
        processes.leave()
        return
    said = {
        "data": data, "task": task, "backbone": backbone, "method": method, "steps": steps, "batch": batch,
        "tokens_per_step": tokens_per_step, "seed": seed, "dev": dev, "test": test,
        "template": template and resolve.unescaped(template), "label": label, "words": resolve.parse_words(word or []),
        "split_seed": split_seed, "data_dir": data_dir, "limit": resolve.parse_limit(limit or []),
        "protocol": protocol, "compat": compat, "shots": shots, "draw": draw,
        "settings": resolve.parse_settings(set_ or []), "start_from": start_from, "dtype": dtype, "device": device,
        "max_source": max_source, "dropout": dropout, "tokens_per_pass": tokens_per_pass,
        "gradient_checkpointing": gradient_checkpointing, "compile": compile_, "placement": placement, "fsdp": fsdp,
    }  # fmt: skip
    words = with_plan(ctx, said, plan, config, recipe)
    if output is None or not words["backbone"]:
        raise BadInput("train needs --data FILE (or --task NAME), --backbone NAME and --output DIR.")
    commands.train(output=output, overwrite=overwrite, tracker=tracker, console=err, **words)
    processes.leave()


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
    placement: Placement = "front",
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
        "placement": placement,
    }  # fmt: skip
    report = check_words(with_plan(ctx, said, plan, config, recipe), output)
    if as_json:
        print_json(report)
    else:
        terminal.print_check(out, report)
    if report["problems"]:
        raise typer.Exit(2)
