"""Score and use a finished run."""

from pathlib import Path
from typing import Annotated

import typer

from softprompt.cli import printing
from softprompt.cli.app import app, out, print_json
from softprompt.cli.flags import AsJson, Device, MovedBackbone, TrainedDtype
from softprompt.errors import UnknownName
from softprompt.runs import predict as runs
from softprompt.tasks import SPLITS


@app.command()
def evaluate(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run.")],
    data: Annotated[Path | None, typer.Option(help="Labelled data, with the columns of the training data.")] = None,
    label: Annotated[str | None, typer.Option(help="Label column of --data; found by its name when not given.")] = None,
    task: Annotated[str | None, typer.Option(help="Published task to score on, instead of --data.")] = None,
    split: Annotated[str, typer.Option(help="Split of --task: train, dev or test.")] = "test",
    data_dir: Annotated[
        Path | None,
        typer.Option(help="Folder of FAMILY/TASK/SPLIT files for --task; else from the hub."),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Maximum rows of --task, drawn at random.")] = None,
    generate: Annotated[bool, typer.Option("--generate", help="Score free text, not the likeliest choice.")] = False,
    predictions: Annotated[Path | None, typer.Option(help="File to write one record per example to (JSONL).")] = None,
    backbone: MovedBackbone = None,
    dtype: TrainedDtype = None,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Score a finished run on labelled data, beside the floors."""
    if split not in SPLITS:
        raise UnknownName("split", split, SPLITS)
    found = runs.evaluate(
        run, data, label, generate, predictions, backbone, dtype, device, task, split, data_dir, limit
    )
    if as_json:
        print_json(found.as_json())
    else:
        printing.print_scores(out, found.as_json())


@app.command()
def predict(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run.")],
    text: Annotated[list[str] | None, typer.Argument(help="Texts; without any, lines are read from stdin.")] = None,
    data: Annotated[Path | None, typer.Option(help="File with the template's columns.")] = None,
    backbone: MovedBackbone = None,
    dtype: TrainedDtype = None,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Answer texts with a finished run.

    For a template of several columns a text is a JSON object.
    """
    answers = runs.predict(run, text, data, backbone, dtype, device)
    if as_json:
        print_json([answer.as_json() for answer in answers])
    else:
        for answer in answers:
            share = "" if answer.probability is None else f"  ({100 * answer.probability:.0f} %)"
            print(f"{answer.prediction}{share}")
