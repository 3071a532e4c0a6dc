"""The verbs sweep, compare and reproduce."""

from pathlib import Path
from typing import Annotated

import typer

from softprompt.cli import printing
from softprompt.cli.app import app, err, out, print_json
from softprompt.cli.flags import AsJson, Config, PlanFile, RecipeName, Spread
from softprompt.cli.training_flags import Given, with_flags
from softprompt.errors import BadInput
from softprompt.experiments.arguments import CompareArguments, ReproduceArguments, SweepArguments
from softprompt.experiments.compare import run_comparison
from softprompt.experiments.compare_finished import compare_finished
from softprompt.experiments.reports.comparison_tables import print_overall, print_rows
from softprompt.experiments.reports.published_table import table_rows as reproduced_rows
from softprompt.experiments.reports.sweep_table import HEADS, conclusion, table_rows
from softprompt.experiments.reproduce import run_reproduction
from softprompt.experiments.sweep import run_sweep
from softprompt.experiments.tables import ComparisonTable
from softprompt.runtime.arguments import parse_model
from softprompt.training.config_file import add_plan


@app.command(cls=Spread)
@with_flags(SweepArguments, leave_out=["fsdp"])
def sweep(
    given: Given,
    plan: PlanFile = None,
    recipe: RecipeName = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Try many settings in the same batches; dev chooses one, and test is scored once."""
    values = add_plan(given.parse(), plan, config, recipe)
    if not values.get("output") or not values.get("backbone"):
        raise BadInput(
            "sweep needs --data FILE (or --task NAME), --backbone NAME, --grid FIELD=V1,V2 and --output DIR."
        )
    found = run_sweep(parse_model(SweepArguments, {**values, "console": err}))
    if as_json:
        print_json(found.as_json())
        return
    printing.print_table(out, f"{found.task}, {found.backbone}", HEADS, table_rows(found))
    out.print(conclusion(found), soft_wrap=True, markup=False)


@app.command(cls=Spread)
@with_flags(ReproduceArguments)
def reproduce(
    given: Given,
    table: Annotated[str, typer.Argument(help="Table of a paper (`softprompt list tables`).")],
    output: Annotated[
        Path | None, typer.Option(help="Folder of the runs and tables; given again, the experiment goes on there.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run a paper's table, or go on with it, and print it beside the published one."""
    if output is None:
        raise BadInput(f"reproduce {table} needs --output DIR for its runs.")
    values = {**given.parse(), "table": table, "output": output, "console": err}
    found = run_reproduction(parse_model(ReproduceArguments, values))
    if as_json:
        print_json(found.as_json())
    else:
        heads = ["", *(column.heading for column in found.columns), "mean"]
        printing.print_table(out, found.title, heads, reproduced_rows(found))


@app.command(cls=Spread)
@with_flags(CompareArguments, leave_out=["fsdp"])
def compare(
    given: Given,
    runs: Annotated[
        list[Path] | None, typer.Argument(help="Finished runs, or folders with runs in them, instead of new ones.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="Folder of the runs and tables; given again, the comparison goes on there.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compare methods fairly: equal budgets, steps and seeds (docs/compare.md)."""
    values = given.parse()
    if runs:
        flags = {"tasks": "--task", "methods": "--methods", "ray": "--ray", "data": "--data", "backbone": "--backbone"}
        words = ", ".join(flag for name, flag in flags.items() if name in values)
        if words:
            raise BadInput(f"compare {runs[0]} ... compares finished runs; {words} would make new ones. Give either.")
        baseline = values.get("baseline")
        found = compare_finished(runs, output=output, baseline=None if baseline is None else str(baseline))
        _show(found, output, as_json)
        return
    if output is None or "backbone" not in values or "methods" not in values:
        raise BadInput(
            "compare needs --task NAME (or --data FILE), --methods A,B, --backbone NAME and --output DIR; or the "
            "folders of finished runs."
        )
    arguments = parse_model(CompareArguments, {**values, "output": output, "console": err})
    _show(run_comparison(arguments), output, as_json)


def _show(found: ComparisonTable, output: Path | None, as_json: bool) -> None:
    if as_json:
        print_json(found.as_json())
        return
    for part in found.tasks:
        printing.print_table(out, *print_rows(part))
    if found.overall:
        printing.print_table(out, *print_overall(found))
    for note in found.notes:
        out.print(note, soft_wrap=True, markup=False)
    if output is not None:
        files = "table.json, table.md, table.csv, table.tex, report.html, scores.svg"
        out.print(f"Written to {output}: {files}", soft_wrap=True, markup=False)
