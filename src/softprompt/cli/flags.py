"""Flags that several verbs share, beside the arguments of training."""

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from softprompt.runtime.ray_cluster import HERE, is_address

BackboneName = Annotated[str, typer.Option(help="Frozen model: smollm2-135m, a folder, or a hub id.")]
MovedBackbone = Annotated[str | None, typer.Option(help="Path or name of the run's frozen model, where it has moved.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON to stdout.")]
Dtype = Annotated[
    str,
    typer.Option(
        help="Data type of the frozen model: float32, bfloat16, float16, or auto (bfloat16 where it is fast)."
    ),
]
TrainedDtype = Annotated[
    str | None,
    typer.Option(
        help="Data type of the frozen model: float32, bfloat16, float16, auto; as in training when not given."
    ),
]
Device = Annotated[str | None, typer.Option(help="Device: cpu, cuda, mps, ...; the best there is when not given.")]
PlanFile = Annotated[
    Path | None, typer.Argument(help="A config file (YAML or JSON), or the run.json of a run to repeat.")
]
RecipeName = Annotated[
    str | None, typer.Option("--recipe", help="A paper's recipe: dept/glue-rte (`softprompt list recipes`).")
]
Config = Annotated[Path | None, typer.Option("--config", help="A config file; flags beside it go before it.")]
Ray = Annotated[
    str | None,
    typer.Option(
        metavar="[ADDRESS]",
        help="Over a Ray cluster: HOST:PORT, or that of RAY_ADDRESS or of this machine (docs/scale.md).",
    ),
]


class GroupedHelp(TyperCommand):
    """A verb whose help shows its flags in groups, by the class that declares them."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        groups: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            own = "Arguments" if param.param_type_name == "argument" else "Options"
            if record := param.get_help_record(ctx):
                groups.setdefault(getattr(param, "rich_help_panel", None) or own, []).append(record)
        for heading, records in groups.items():
            with formatter.section(heading):
                formatter.write_dl(records)


class Spread(GroupedHelp):
    """A verb with --ray, whose address may be left out."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        told = []
        for word, following in zip(args, [*args[1:], ""], strict=True):
            told += [word] if word != "--ray" or is_address(following) else [word, HERE]
        return super().parse_args(ctx, told)
