"""Tune prompts, and look first at what would be tuned."""

from pathlib import Path
from typing import Annotated

import typer

from softprompt.cli import printing
from softprompt.cli.app import app, err, out, print_json
from softprompt.cli.flags import AsJson, Config, Fsdp, PlanFile, RecipeName, Seed, TaskName, Trackers
from softprompt.cli.training_flags import Said, parsed, told, with_plan
from softprompt.errors import BadInput
from softprompt.runtime import distributed
from softprompt.training import train as training
from softprompt.training.check import check as check_words


@app.command()
@told
def train(
    ctx: typer.Context,
    said: Said,
    plan: PlanFile = None,
    task: TaskName = None,
    output: Annotated[Path | None, typer.Option(help="Folder of the run; it must be new.")] = None,
    method: Annotated[
        list[str] | None, typer.Option(help="Method (prompt_tuning); repeat it to tune several in the same batches.")
    ] = None,
    recipe: RecipeName = None,
    config: Config = None,
    seed: Seed = None,
    fsdp: Fsdp = False,
    tracker: Trackers = None,
    resume: Annotated[list[Path] | None, typer.Option(help="Go on with an interrupted run's folder.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what --output holds.")] = False,
) -> None:
    """Tune one prompt, or one a method, and write it to a folder."""
    if resume:
        training.resume(resume, err, tracker)
        distributed.leave()
        return
    said = parsed(said) | {"task": task, "method": method, "seed": seed, "fsdp": fsdp}
    words = with_plan(ctx, said, plan, config, recipe)
    if output is None or not words["backbone"]:
        raise BadInput("train needs --data FILE (or --task NAME), --backbone NAME and --output DIR.")
    training.train(output=output, overwrite=overwrite, tracker=tracker, console=err, **words)
    distributed.leave()


@app.command()
@told
def check(
    ctx: typer.Context,
    said: Said,
    plan: PlanFile = None,
    task: TaskName = None,
    output: Annotated[Path | None, typer.Option(help="Folder of the run.")] = None,
    method: Annotated[list[str] | None, typer.Option(help="Method; repeatable.")] = None,
    recipe: RecipeName = None,
    config: Config = None,
    seed: Seed = None,
    fsdp: Fsdp = False,
    as_json: AsJson = False,
) -> None:
    """Resolve everything that train would, load no weights, and report all problems at once."""
    said |= {"task": task, "method": method, "seed": seed, "fsdp": fsdp}
    report = check_words(with_plan(ctx, said, plan, config, recipe), output)
    if as_json:
        print_json(report)
    else:
        printing.print_check(out, report)
    if report["problems"]:
        raise typer.Exit(2)
