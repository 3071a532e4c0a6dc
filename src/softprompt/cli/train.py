"""The verbs train and check."""

from pathlib import Path
from typing import Annotated

import typer

from softprompt.cli.app import app, err, out, print_json
from softprompt.cli.flags import AsJson, Config, GroupedHelp, PlanFile, RecipeName
from softprompt.cli.training_flags import Given, with_flags
from softprompt.errors import BadInput
from softprompt.recipes.recipe import Recipe
from softprompt.runtime.arguments import parse_model
from softprompt.training.arguments import RunArguments, TrainingArguments


def list_settings() -> str:
    """Write the recipe fields that --set takes, with their defaults, for the end of the help."""
    own = [name for name in Recipe.model_fields if name not in {*TrainingArguments.model_fields, "options"}]
    fields = ((name, Recipe.model_fields[name].get_default(call_default_factory=True)) for name in own)
    said = ", ".join(name if value in (None, {}) else f"{name}={value}" for name, value in fields)
    return f"Fields of --set (docs/arguments.md), beside a method's options (docs/methods.md): {said}."


@app.command(cls=GroupedHelp, epilog=list_settings())
@with_flags(TrainingArguments)
def train(
    given: Given,
    plan: PlanFile = None,
    recipe: RecipeName = None,
    config: Config = None,
    resume: Annotated[
        list[Path] | None, typer.Option(help="Folder of an interrupted run to go on with; repeatable.")
    ] = None,
) -> None:
    """Train a soft prompt (one per --method) and save it to --output."""
    from softprompt.runtime import distributed
    from softprompt.training.config_file import add_plan
    from softprompt.training.train import resume as resume_runs
    from softprompt.training.train import run_training

    values = given.parse()
    if resume:
        resume_runs(resume, err, values.get("tracker"))
        distributed.leave()
        return
    values = add_plan(values, plan, config, recipe)
    if not values.get("output") or not values.get("backbone"):
        raise BadInput("train needs --data FILE (or --task NAME), --backbone NAME and --output DIR.")
    run_training(parse_model(TrainingArguments, {**values, "console": err}))
    distributed.leave()


@app.command(cls=GroupedHelp)
@with_flags(RunArguments)
def check(
    given: Given,
    plan: PlanFile = None,
    output: Annotated[Path | None, typer.Option(help="Folder of the run.")] = None,
    recipe: RecipeName = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Resolve everything that train would, load no weights, and report all problems at once."""
    from softprompt.cli import printing
    from softprompt.training.check import check as check_arguments
    from softprompt.training.config_file import add_plan

    values, problems = given.parse_each()
    values = add_plan(values, plan, config, recipe)
    report = check_arguments(values, output, problems)
    if as_json:
        print_json(report.as_json())
    else:
        printing.print_check(out, report)
    if report.problems:
        raise typer.Exit(2)
