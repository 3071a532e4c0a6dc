"""`softprompt serve`: answer with the prompts of a folder over HTTP."""

from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer

from softprompt.cli.app import app, err
from softprompt.cli.flags import Ray, Spread
from softprompt.cli.training_flags import Given, with_flags
from softprompt.errors import BadInput, MissingPackage
from softprompt.runtime.arguments import parse_model
from softprompt.runtime.config_file import read_mapping
from softprompt.serving.arguments import LOOPBACK, ServeArguments

SURVEYED, SHOWN = 1000, 10
"""Cards that are read before the server starts; prompts that cannot be served and are named there."""


@app.command(cls=Spread)
@with_flags(ServeArguments)
def serve(
    given: Given,
    config: Annotated[Path | None, typer.Option(help="YAML file of these arguments; flags go before it.")] = None,
    ray: Ray = None,
    replicas: Annotated[
        int | None,
        typer.Option(
            min=1, help="Number of servers on the Ray cluster; default: one for each GPU or, without any, machine."
        ),
    ] = None,
) -> None:
    """Serve the prompts of a folder over HTTP, many of them in one batch (docs/serving.md)."""
    if replicas is not None and ray is None:
        raise BadInput(
            f"--replicas {replicas}: expected --ray beside it; without --ray, this process is the only server."
        )
    arguments = parse_model(ServeArguments, _read_config(config) | given.parse())
    arguments.check_tls()
    _check_packages(ray=ray is not None, otel=arguments.otel)
    from softprompt.serving.server import build, settings_of
    from softprompt.serving.server import serve as run_server

    settings = settings_of(arguments)
    if not settings.keys.use and arguments.host not in LOOPBACK:
        err.print(
            f"note: anybody who reaches {arguments.host}:{arguments.port} may send requests; give --api-key to change "
            "that", markup=False,
        )  # fmt: skip

    def ready(address: str, servers: int | None = None) -> None:
        on = "" if servers is None else f" by {servers} replicas" if servers > 1 else " by 1 replica"
        what = f"{arguments.backbone} with the prompts of {arguments.prompts}"
        err.print(f"serving {what} at {address}{on} (docs at {address}/docs)", soft_wrap=True)

    if ray is None:
        built = build(settings)
        for line in _describe(*built.state.store.survey(SURVEYED)):
            err.print(line, soft_wrap=True, markup=False)
        run_server(built, arguments, ready=ready)
    else:
        if arguments.tls_cert is not None:
            raise BadInput("--tls-cert: Ray's proxy serves no https; put a proxy in front, or leave --ray out.")
        from softprompt.serving.replicas import serve_replicas

        serve_replicas(ray, replicas, settings, arguments.host, arguments.port, ready=ready)


def _read_config(path: Path | None) -> dict[str, object]:
    """Read the arguments in a file; dashes and underscores are the same."""
    if path is None:
        return {}
    found = read_mapping(path, "a YAML file of the arguments of serve", "backbone, prompts, host")
    return {name.replace("-", "_"): value for name, value in found.items()}


def _describe(served: int, wrong: Mapping[str, str]) -> Iterator[str]:
    """Say how many prompts are served, and of the others why they are not."""
    yield f"{served} prompt{'s' * (served != 1)}" + (f", {len(wrong)} cannot be served:" if wrong else "")
    for name, reason in list(wrong.items())[:SHOWN]:
        yield f"  {name}: {reason}"
    if len(wrong) > SHOWN:
        yield f"  and {len(wrong) - SHOWN} more (GET /v1/prompts)"


def _check_packages(*, ray: bool, otel: bool) -> None:
    """Import the server. Raises MissingPackage for an extra that is not installed."""
    wanted = ["serve", *["ray"] * ray, *["otel"] * otel]
    try:
        import_module("softprompt.serving.server")
        if ray:
            import_module("softprompt.serving.replicas")
        if otel:
            import_module("softprompt.serving.http.traces")
    except ModuleNotFoundError as error:
        raise MissingPackage(
            str(error.name), f"`softprompt serve{' --ray' * ray}{' --otel' * otel}` needs it.",
            f"pip install 'softprompt[{','.join(wanted)}]'",
        ) from None  # fmt: skip
