"""The verbs sweep, compare and reproduce."""

from pathlib import Path
from typing import Annotated, Any

import typer

from softprompt.cli import printing
from softprompt.cli.app import app, err, out, print_json
from softprompt.cli.flags import AsJson, Config, PlanFile, RecipeName, Spread
from softprompt.cli.training_flags import Given, with_flags
from softprompt.errors import BadInput
from softprompt.experiments.arguments import CompareArguments, SweepArguments
from softprompt.experiments.compare import run_comparison
from softprompt.experiments.compare_finished import compare_finished
from softprompt.experiments.reports.comparison_tables import print_rows
from softprompt.experiments.reports.published_table import printed_rows
from softprompt.experiments.reports.sweep_table import HEADS, conclusion, table_rows
from softprompt.experiments.reproduce import reproduce as reproduce_table
from softprompt.experiments.sweep import run_sweep
from softprompt.recipes.setting import Setting
from softprompt.runtime.arguments import given_in, parse_model
from softprompt.tasks.published.spec import TaskSpec, as_limit
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
        print_json(found)
        return
    printing.print_table(out, f"{found['task']}, {found['backbone']}", HEADS, table_rows(found))
    out.print(conclusion(found), soft_wrap=True, markup=False)


OF_A_TABLE = (
    "data_dir", "limit", "protocol", "compat", "shots", "settings", "max_source", "dtype", "device", "tokens_per_pass",
    "start_from", "ray", "workers",
)  # fmt: skip
"""Arguments of training that change every run of a paper's table."""


@app.command(cls=Spread)
@with_flags(CompareArguments, only=OF_A_TABLE)
def reproduce(
    given: Given,
    table: Annotated[str, typer.Argument(help="Table of a paper (`softprompt list tables`).")],
    output: Annotated[
        Path | None, typer.Option(help="Folder of the runs and tables; given again, the experiment goes on there.")
    ] = None,
    backbone: Annotated[str | None, typer.Option(help="Frozen model; the table's own when not given.")] = None,
    tasks: Annotated[list[str] | None, typer.Option(help="Tasks to run, of the table's: rte,cola or repeat.")] = None,
    lines: Annotated[list[str] | None, typer.Option(help="Lines to run, of the table's.")] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="Runs of each cell.")] = None,
    as_json: AsJson = False,
) -> None:
    """Run a paper's table, or go on with it, and print it beside the published one."""
    if output is None:
        raise BadInput(f"reproduce {table} needs --output DIR for its runs.")
    values = parse_model(CompareArguments, {**given.parse(), "output": output})
    known = given_in(values)
    spec = {name: value for name, value in known.items() if name in TaskSpec.model_fields}
    if values.limit is not None:
        spec["limit"] = as_limit(values.limit)
    found = reproduce_table(
        table, output=output, backbone=backbone, tasks=tasks, lines=lines, seeds=seeds, spec=spec,
        setting={name: value for name, value in known.items() if name in Setting.model_fields},
        changes=values.settings, start_from=values.start_from, ray=values.ray, workers=values.workers, console=err,
    )  # fmt: skip
    if as_json:
        print_json(found)
    else:
        printing.print_table(out, found["title"], ["", *(c["heading"] for c in found["columns"]), "mean"],
                             printed_rows(found))  # fmt: skip


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


def _show(found: dict[str, Any], output: Path | None, as_json: bool) -> None:
    if as_json:
        print_json(found)
        return
    for part in found["tasks"]:
        printing.print_table(out, *print_rows(part))
    for note in found["notes"]:
        out.print(note, soft_wrap=True, markup=False)
    if output is not None:
        files = "table.json, table.md, table.csv, table.tex, report.html, scores.svg"
        out.print(f"Written to {output}: {files}", soft_wrap=True, markup=False)
