"""The verbs show, list and env."""

from pathlib import Path
from typing import Annotated

import typer

from softprompt.cli import printing
from softprompt.cli.app import app, out, print_json
from softprompt.cli.flags import AsJson, GroupedHelp, MovedBackbone
from softprompt.cli.listing import columns_of, environment, list_rows, show_run, show_task
from softprompt.cli.training_flags import Given, with_flags
from softprompt.errors import BadInput
from softprompt.recipes.plan import as_yaml
from softprompt.recipes.registry import get_recipe
from softprompt.training.arguments import CommonArguments


@app.command(cls=GroupedHelp)
@with_flags(CommonArguments, only=("data_dir", "limit", "protocol", "compat", "shots", "draw"))
def show(
    given: Given,
    run: Annotated[Path, typer.Argument(help="Folder of a finished run; or the word task or recipe.")],
    name: Annotated[str | None, typer.Argument(help="After the word task or recipe: its name.")] = None,
    words: Annotated[int, typer.Option(min=0, help="Nearest words for each prompt row; 0: none.")] = 5,
    backbone: MovedBackbone = None,
    template: Annotated[str | None, typer.Option(help="Template of a task: words or paper.")] = None,
    as_json: AsJson = False,
) -> None:
    """Describe a run, a task or a recipe.

    Of a run: method, sizes, scores, nearest words. `show task glue/rte`, `show recipe dept/glue-rte`.
    """
    if name is not None and str(run) not in ("task", "recipe"):
        raise BadInput(f"show {run} {name}: expected the folder of one run, or task NAME, or recipe NAME.")
    if name is not None and str(run) == "recipe":
        if as_json:
            print_json(get_recipe(name).model_dump(mode="json", exclude_unset=True))
        else:
            print(as_yaml(get_recipe(name)))
        return
    if name is None:
        found = show_run(run, words, backbone)
        show_it = printing.print_run
    else:
        found = show_task(name, {**given.parse(), "template": template})
        show_it = printing.print_task
    if as_json:
        print_json(found)
    else:
        show_it(out, found)


@app.command("list")
def list_(
    what: Annotated[str, typer.Argument(help="What to list: methods, backbones, tasks, recipes or tables.")],
    backbone: Annotated[
        str | None, typer.Option(help="Backbone on which to count what methods train and store (no weights are read).")
    ] = None,
    max_source: Annotated[int, typer.Option(min=1, help="Maximum source tokens.")] = 256,
    as_json: AsJson = False,
) -> None:
    """List methods, backbones, tasks, recipes or tables."""
    rows = list_rows(what, backbone, max_source)
    if as_json:
        print_json(rows)
        return
    printing.print_list(out, columns_of(what, rows), rows)


@app.command()
def env(as_json: AsJson = False) -> None:
    """Print what softprompt runs on here."""
    found = environment()
    if as_json:
        print_json(found)
    else:
        for name, value in found.items():
            out.print(f"{name:16} {value}", soft_wrap=True)
