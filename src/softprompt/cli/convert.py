"""The verbs export and import."""

from pathlib import Path
from typing import Annotated

import typer

from softprompt.cli.app import app, err
from softprompt.cli.flags import Device, Dtype, MovedBackbone
from softprompt.runs.convert import export_prompt, import_prompt
from softprompt.runs.formats.registry import EXPORTERS
from softprompt.training import parsing


@app.command("export")
def export_(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run.")],
    output: Annotated[Path, typer.Option(help="Folder to write; it must be new.")],
    to: Annotated[str, typer.Option(help=f"Format: {', '.join(EXPORTERS)}.")] = "peft",
    backbone: MovedBackbone = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what --output holds.")] = False,
) -> None:
    """Write a finished run as another library reads it (docs/peft.md, docs/vllm.md)."""
    made = export_prompt(run, output, to, backbone, overwrite, console=err)
    err.print(f"{run} is exported to {made.folder}", soft_wrap=True, markup=False)


@app.command("import")
def import_(
    folder: Annotated[
        str, typer.Argument(help="Folder, or hub id, of what HF PEFT or the code of DePT's authors has saved.")
    ],
    backbone: Annotated[str, typer.Option(help="Frozen model that it was trained on: a folder or a hub id.")],
    output: Annotated[Path, typer.Option(help="Folder of the run; it must be new.")],
    template: Annotated[str, typer.Option(help="Input text with {columns}, as it was trained with.")] = "{text}",
    choice: Annotated[
        list[str] | None, typer.Option(help="An answer to choose among; repeat it. Free text when not given.")
    ] = None,
    peft_task: Annotated[int | None, typer.Option(min=0, help="Index of the task, for a multi-task prompt.")] = None,
    max_source: Annotated[
        int | None, typer.Option(min=1, help="Source tokens read: 256, or as many as there are offsets for.")
    ] = None,
    dtype: Dtype = "float32",
    device: Device = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what --output holds.")] = False,
) -> None:
    """Make a run of a prompt that another library has trained (docs/peft.md)."""
    import_prompt(
        folder, backbone, output, template=parsing.unescape(template), choices=choice or [], peft_task=peft_task,
        max_source=max_source, dtype=dtype, device=device, overwrite=overwrite, console=err,
    )  # fmt: skip
