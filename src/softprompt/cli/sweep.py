"""Search settings."""

from pathlib import Path
from typing import Annotated

import typer

from softprompt.cli import printing
from softprompt.cli.app import app, err, out, print_json
from softprompt.cli.flags import AsJson, Config, PlanFile, Ray, RecipeName, Spread, TaskName, Together, Workers
from softprompt.cli.training_flags import Said, parsed, told, with_plan
from softprompt.errors import BadInput
from softprompt.experiments.reports.sweep_table import HEADS, conclusion, table_rows
from softprompt.experiments.search_space import parse_grid, parse_ranges
from softprompt.experiments.sweep import sweep as run_sweep


@app.command(cls=Spread)
@told
def sweep(
    ctx: typer.Context,
    said: Said,
    plan: PlanFile = None,
    task: TaskName = None,
    output: Annotated[Path | None, typer.Option(help="Folder of its runs; given again, it goes on there.")] = None,
    grid: Annotated[
        list[str] | None, typer.Option(help="FIELD=V1,V2: values of a recipe field or method option; repeatable.")
    ] = None,
    range_: Annotated[
        list[str] | None,
        typer.Option(
            "--range", help="FIELD=LOW..HIGH to draw from; with :log behind it, in the logarithm. Repeatable."
        ),
    ] = None,
    random: Annotated[
        int | None, typer.Option(min=1, help="So many settings drawn from --grid and --range, not all combinations.")
    ] = None,
    random_seed: Annotated[int, typer.Option(min=0, help="Of those draws.")] = 0,
    seeds: Annotated[int, typer.Option(help="Runs of each setting.")] = 1,
    halving: Annotated[
        int | None,
        typer.Option(help="Successive halving: at each rung one in so many settings goes on (docs/compare.md)."),
    ] = None,
    max_parallel: Together = None,
    ray: Ray = None,
    workers: Workers = None,
    method: Annotated[list[str] | None, typer.Option(help="Method (prompt_tuning); repeatable.")] = None,
    recipe: RecipeName = None,
    config: Config = None,
    seed: Annotated[int | None, typer.Option(min=0, help="The first of the seeds.")] = None,
    as_json: AsJson = False,
) -> None:
    """Try many settings in the same batches; dev chooses one, and its test score is measured once."""
    said = parsed(said) | {"task": task, "method": method, "seed": seed}
    words = with_plan(ctx, said, plan, config, recipe)
    if output is None or not words["backbone"]:
        raise BadInput(
            "sweep needs --data FILE (or --task NAME), --backbone NAME, --grid FIELD=V1,V2 and --output DIR."
        )
    found = run_sweep(
        output=output, grid=parse_grid(grid or []), ranges=parse_ranges(range_ or []), draws=random,
        draw_seed=random_seed, seeds=seeds, halving=halving, max_parallel=max_parallel, ray=ray, workers=workers,
        console=err, **words,
    )  # fmt: skip
    if as_json:
        print_json(found)
        return
    printing.print_table(out, f"{found['task']}, {found['backbone']}", HEADS, table_rows(found))
    out.print(conclusion(found), soft_wrap=True, markup=False)
