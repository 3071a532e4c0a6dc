"""Many runs in one go: a paper's table."""

from pathlib import Path
from typing import Annotated

import typer

from softprompt import resolve, terminal
from softprompt.cli.app import app, err, out, print_json
from softprompt.cli.flags import (
    AsJson,
    Compat,
    DataDir,
    Device,
    Dtype,
    Limit,
    Protocol,
    Set,
    Shots,
    StartFrom,
    TokensPerPass,
)
from softprompt.errors import BadInput
from softprompt.reproduce import reproduce as reproduce_table
from softprompt.scoreboard import table_rows
from softprompt.tasks.spec import as_limit


@app.command()
def reproduce(
    table: Annotated[str, typer.Argument(help="A table (`softprompt list tables`).")],
    output: Annotated[Path | None, typer.Option(help="Folder of its runs; given again, it goes on there.")] = None,
    backbone: Annotated[str | None, typer.Option(help="Frozen model; the table's own when not given.")] = None,
    tasks: Annotated[list[str] | None, typer.Option(help="Only these tasks: rte,cola or repeat.")] = None,
    lines: Annotated[list[str] | None, typer.Option(help="Only these lines of it.")] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="Runs of each cell.")] = None,
    data_dir: DataDir = None,
    limit: Limit = None,
    protocol: Protocol = None,
    compat: Compat = None,
    shots: Shots = None,
    set_: Set = None,
    max_source: Annotated[
        int | None, typer.Option(min=1, help="Source tokens read; the recipe's when not given.")
    ] = None,
    dtype: Dtype = "float32",
    device: Device = None,
    tokens_per_pass: TokensPerPass = None,
    start_from: StartFrom = None,
    as_json: AsJson = False,
) -> None:
    """Run a paper's table, or go on with it, and print it beside the published one."""
    if output is None:
        raise BadInput(f"reproduce {table} needs --output DIR for its runs.")
    spec = {"data_dir": data_dir and str(data_dir), "protocol": protocol, "compat": compat, "shots": shots}
    limits = as_limit(resolve.parse_limit(limit or []))
    found = reproduce_table(
        table, output=output, backbone=backbone, tasks=tasks, lines=lines, seeds=seeds,
        spec={name: value for name, value in {**spec, "limit": limits or None}.items() if value is not None},
        setting={
            name: value
            for name, value in {
                "dtype": dtype, "device": device, "max_source": max_source, "tokens_per_pass": tokens_per_pass
            }.items()
            if value is not None
        },
        changes=resolve.parse_settings(set_ or []), start_from=start_from, console=err,
    )  # fmt: skip
    if as_json:
        print_json(found)
    else:
        terminal.print_table(out, found["title"], ["", *(c["heading"] for c in found["columns"]), "mean"],
                             table_rows(found))  # fmt: skip
