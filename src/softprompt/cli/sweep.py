"""Search settings."""

from pathlib import Path
from typing import Annotated

import typer

from softprompt import resolve, terminal
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
    Label,
    Limit,
    MaxSource,
    Placement,
    PlanFile,
    Protocol,
    Ray,
    RecipeName,
    Set,
    Shots,
    SplitSeed,
    Spread,
    StartFrom,
    TaskName,
    Template,
    TestFile,
    Together,
    TokensPerPass,
    TokensPerStep,
    Words,
    Workers,
    with_plan,
)
from softprompt.errors import BadInput
from softprompt.search import parse_grid, parse_ranges
from softprompt.sweep import HEADS, conclusion, table_rows
from softprompt.sweep import sweep as run_sweep


@app.command(cls=Spread)
def sweep(
    ctx: typer.Context,
    plan: PlanFile = None,
    data: Data = None,
    task: TaskName = None,
    backbone: BackboneName = "",
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
    together: Together = None,
    ray: Ray = None,
    workers: Workers = None,
    method: Annotated[list[str] | None, typer.Option(help="Method (prompt_tuning); repeatable.")] = None,
    recipe: RecipeName = None,
    config: Config = None,
    steps: Annotated[int | None, typer.Option(help="Optimizer steps.")] = None,
    batch: Batch = None,
    tokens_per_step: TokensPerStep = None,
    seed: Annotated[int | None, typer.Option(min=0, help="The first of the seeds.")] = None,
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
    as_json: AsJson = False,
) -> None:
    """Try many settings in the same batches; dev chooses one, and its test score is measured once."""
    said = {
        "data": data, "task": task, "backbone": backbone, "method": method, "steps": steps, "batch": batch,
        "tokens_per_step": tokens_per_step, "seed": seed, "dev": dev, "test": test,
        "template": template and resolve.unescaped(template), "label": label, "words": resolve.parse_words(word or []),
        "split_seed": split_seed, "data_dir": data_dir, "limit": resolve.parse_limit(limit or []),
        "protocol": protocol, "compat": compat, "shots": shots, "draw": draw,
        "settings": resolve.parse_settings(set_ or []), "start_from": start_from, "dtype": dtype, "device": device,
        "max_source": max_source, "dropout": dropout, "tokens_per_pass": tokens_per_pass,
        "gradient_checkpointing": gradient_checkpointing, "compile": compile_, "placement": placement,
    }  # fmt: skip
    words = with_plan(ctx, said, plan, config, recipe)
    if output is None or not words["backbone"]:
        raise BadInput(
            "sweep needs --data FILE (or --task NAME), --backbone NAME, --grid FIELD=V1,V2 and --output DIR."
        )
    found = run_sweep(
        output=output, grid=parse_grid(grid or []), ranges=parse_ranges(range_ or []), draws=random,
        draw_seed=random_seed, seeds=seeds, halving=halving, together=together, ray=ray, workers=workers,
        console=err, **words,
    )  # fmt: skip
    if as_json:
        print_json(found)
        return
    terminal.print_table(out, f"{found['task']}, {found['backbone']}", HEADS, table_rows(found))
    out.print(conclusion(found), soft_wrap=True, markup=False)
