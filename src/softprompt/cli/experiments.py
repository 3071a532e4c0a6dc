"""Many runs in one go: a paper's table, a comparison of methods."""

from pathlib import Path
from typing import Annotated, Any

import typer

from softprompt.cli import printing
from softprompt.cli.app import app, err, out, print_json
from softprompt.cli.flags import (
    AsJson,
    Compat,
    DataDir,
    Device,
    Dtype,
    Limit,
    Protocol,
    Ray,
    Set,
    Shots,
    Spread,
    StartFrom,
    Together,
    TokensPerPass,
    Workers,
)
from softprompt.cli.training_flags import Said, parsed, told
from softprompt.errors import BadInput
from softprompt.experiments.compare import compare as compare_methods
from softprompt.experiments.compare_finished import compare_finished
from softprompt.experiments.reports.comparison_tables import print_rows
from softprompt.experiments.reports.published_table import printed_rows
from softprompt.experiments.reproduce import reproduce as reproduce_table
from softprompt.tasks.published.spec import as_limit
from softprompt.training import parsing


@app.command(cls=Spread)
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
    ray: Ray = None,
    workers: Workers = None,
    as_json: AsJson = False,
) -> None:
    """Run a paper's table, or go on with it, and print it beside the published one."""
    if output is None:
        raise BadInput(f"reproduce {table} needs --output DIR for its runs.")
    spec = {"data_dir": data_dir and str(data_dir), "protocol": protocol, "compat": compat, "shots": shots}
    limits = as_limit(parsing.parse_limit(limit or []))
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
        changes=parsing.parse_settings(set_ or []), start_from=start_from, ray=ray, workers=workers, console=err,
    )  # fmt: skip
    if as_json:
        print_json(found)
    else:
        printing.print_table(out, found["title"], ["", *(c["heading"] for c in found["columns"]), "mean"],
                             printed_rows(found))  # fmt: skip


@app.command(cls=Spread)
@told
def compare(
    said: Said,
    runs: Annotated[
        list[Path] | None, typer.Argument(help="Finished runs, or folders with runs in them, instead of new ones.")
    ] = None,
    task: Annotated[list[str] | None, typer.Option(help="A task (`softprompt list tasks`); repeatable.")] = None,
    methods: Annotated[str | None, typer.Option(help="Methods: prompt_tuning,dept,superpos.")] = None,
    output: Annotated[Path | None, typer.Option(help="Folder of it all; given again, it goes on there.")] = None,
    seeds: Annotated[int, typer.Option(help="Runs of each method at its chosen setting.")] = 3,
    budget: Annotated[int, typer.Option(help="Settings (learning rates) that each method tries.")] = 3,
    baseline: Annotated[
        str | None, typer.Option(help="Method that the others are compared with; prompt_tuning when not given.")
    ] = None,
    max_parallel: Together = None,
    ray: Ray = None,
    workers: Workers = None,
    as_json: AsJson = False,
) -> None:
    """Compare methods fairly: the same number of tried settings, steps and seeds for each (docs/compare.md)."""
    if runs:
        given = {"--task": task, "--methods": methods, "--ray": ray}
        given |= {f"--{name}": said[name] for name in ("data", "backbone")}
        words = ", ".join(name for name, value in given.items() if value)
        if words:
            raise BadInput(f"compare {runs[0]} ... compares finished runs; {words} would make new ones. Give either.")
        _show(compare_finished(runs, output=output, baseline=baseline), output, as_json)
        return
    if output is None or not said["backbone"] or methods is None:
        raise BadInput(
            "compare needs --task NAME (or --data FILE), --methods A,B, --backbone NAME and --output DIR; or the "
            "folders of finished runs."
        )
    found = compare_methods(
        task, [name for name in methods.split(",") if name], output=output, seeds=seeds, budget=budget,
        baseline=baseline, max_parallel=max_parallel, ray=ray, workers=workers, console=err, **parsed(said),
    )  # fmt: skip
    _show(found, output, as_json)


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
