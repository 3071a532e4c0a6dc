"""One prompt from the runs of several tasks."""

from pathlib import Path
from typing import Annotated

import typer

from softprompt.cli.app import app, err
from softprompt.cli.flags import Device
from softprompt.training import parsing
from softprompt.training.distillation import distil as distil_runs


@app.command()
def distil(
    runs: Annotated[list[Path], typer.Argument(help="Finished runs, one a task: the teachers.")],
    output: Annotated[Path, typer.Option(help="Folder of the shared prompt and of a run for each task.")],
    steps: Annotated[int | None, typer.Option(help="Optimizer steps.")] = None,
    batch: Annotated[int | None, typer.Option(help="Examples of each task in a step.")] = None,
    seed: Annotated[
        int | None,
        typer.Option(min=0, help="Random seed for initialization and data order."),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="NAME=VALUE: any recipe field or method option; repeatable."),
    ] = None,
    weight: Annotated[float, typer.Option(min=0, help="Weight of the distillation losses.")] = 0.9,
    temperature: Annotated[float, typer.Option(min=0.01, help="Softmax temperature of the distillation loss.")] = 1.0,
    device: Device = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what --output holds.")] = False,
) -> None:
    """Train one prompt for several tasks, taught by their runs (docs/transfer.md).

    This is the source stage of MPT.
    """
    distil_runs(
        runs, output, steps=steps, batch=batch, seed=seed, settings=parsing.parse_settings(set_ or []), weight=weight,
        temperature=temperature, device=device, overwrite=overwrite, console=err,
    )  # fmt: skip
