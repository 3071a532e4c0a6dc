"""`softprompt serve`: answer with the prompts of a folder over HTTP."""

from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer

from softprompt.cli.app import app, err
from softprompt.cli.flags import BackboneName, Device, Dtype, Ray, Spread
from softprompt.errors import BadInput, MissingPackage

SURVEYED, SHOWN = 1000, 10
"""Cards that are read before the server starts; prompts that cannot be served and are named there."""
LOOPBACK = ("127.0.0.1", "::1", "localhost")


@app.command(cls=Spread)
def serve(
    backbone: BackboneName,
    prompts: Annotated[
        Path, typer.Option(help="Folder of run folders, or of one run; a run folder's name is its prompt's.")
    ],
    host: Annotated[str, typer.Option(help="Address to listen at; 0.0.0.0: all of this machine's.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen at; 0: any free one.")] = 8000,
    api_key: Annotated[
        list[str] | None,
        typer.Option(
            envvar="SOFTPROMPT_API_KEY", help="Key that clients must send; repeat it, or divide keys by commas."
        ),
    ] = None,
    admin_key: Annotated[
        list[str] | None,
        typer.Option(
            envvar="SOFTPROMPT_ADMIN_KEY",
            help="Key that may also upload and delete prompts; without one, no client may.",
        ),
    ] = None,
    trusted_host: Annotated[
        list[str] | None,
        typer.Option(
            help="Name or address that requests may be for (the Host header), repeatable; default: any, but this "
            "machine's own where it listens at those alone."
        ),
    ] = None,
    dtype: Dtype = "auto",
    device: Device = None,
    max_input_tokens: Annotated[int, typer.Option(min=1, help="Maximum tokens per input text.")] = 4096,
    max_output_tokens: Annotated[int, typer.Option(min=1, help="Maximum tokens per answer.")] = 1024,
    max_body_kb: Annotated[int, typer.Option(min=1, help="Maximum request body in kB.")] = 1000,
    max_prompt_mb: Annotated[int, typer.Option(min=1, help="Maximum uploaded prompt in MB.")] = 64,
    max_concurrent: Annotated[
        int, typer.Option(min=1, help="Requests in progress per key or, without keys, per address; more wait.")
    ] = 64,
    read_timeout: Annotated[
        float, typer.Option(min=0.1, help="Seconds within which headers, and then the body, must arrive.")
    ] = 30.0,
    queue: Annotated[int, typer.Option(min=1, help="Maximum texts that wait; more are refused (429).")] = 1024,
    batch_rows: Annotated[
        int | None, typer.Option(min=1, help="Maximum generations in a batch: 32 on a CPU, else 128.")
    ] = None,
    batch_tokens: Annotated[
        int | None,
        typer.Option(min=64, help="Maximum tokens of the generations in a batch: 8192 on a CPU, else 131072."),
    ] = None,
    pass_tokens: Annotated[
        int | None, typer.Option(min=64, help="Maximum tokens read in one pass: 2048 on a CPU, else 32768.")
    ] = None,
    wait_ms: Annotated[
        float, typer.Option(min=0, help="Milliseconds that the first request of a batch waits for others.")
    ] = 4.0,
    cache_mb: Annotated[int, typer.Option(min=0, help="Memory for the prompts' keys and values, in MB.")] = 1000,
    memory_mb: Annotated[int, typer.Option(min=1, help="Memory for the prompts' tensors, in MB.")] = 1000,
    ray: Ray = None,
    replicas: Annotated[
        int | None,
        typer.Option(
            min=1, help="Number of servers on the Ray cluster; default: one for each GPU or, without any, machine."
        ),
    ] = None,
    grace: Annotated[float, typer.Option(min=0, help="Seconds to finish what runs at SIGTERM or Ctrl-C.")] = 30.0,
) -> None:
    """Serve the prompts of a folder over HTTP, many of them in one batch (docs/serving.md)."""
    if replicas is not None and ray is None:
        raise BadInput(
            f"--replicas {replicas}: expected --ray beside it; without --ray, this process is the only server."
        )
    _check_packages(ray=ray is not None)
    from softprompt.serving.http.auth import Keys
    from softprompt.serving.limits import Limits
    from softprompt.serving.server import ServerSettings, build
    from softprompt.serving.server import serve as run_server

    keys = Keys.of(api_key or [], admin_key or [])
    limits = Limits(
        body=max_body_kb * 1000, prompt_body=max_prompt_mb * 1_000_000, input_tokens=max_input_tokens,
        output_tokens=max_output_tokens, concurrent=max_concurrent, waiting=queue, arrival=read_timeout,
    )  # fmt: skip
    settings = ServerSettings(
        backbone, prompts, dtype=dtype, device=device, keys=keys, limits=limits, memory=memory_mb * 1_000_000,
        grace=grace, hosts=tuple(trusted_host or (LOOPBACK if host in LOOPBACK else ())),
        batching={
            "rows": batch_rows, "tokens": batch_tokens, "pass_tokens": pass_tokens, "wait": wait_ms / 1000,
            "queue": queue, "cache": cache_mb * 1_000_000,
        },
    )  # fmt: skip
    if not keys.use and host not in LOOPBACK:
        err.print(
            f"note: anybody who reaches {host}:{port} may send requests; give --api-key to change that", markup=False
        )

    def ready(address: str, servers: int | None = None) -> None:
        on = "" if servers is None else f" by {servers} replicas" if servers > 1 else " by 1 replica"
        line = f"serving {backbone} with the prompts of {prompts} at {address}{on} (docs at {address}/docs)"
        err.print(line, soft_wrap=True)

    if ray is None:
        built = build(settings)
        for line in _describe(*built.state.store.survey(SURVEYED)):
            err.print(line, soft_wrap=True, markup=False)
        run_server(built, host, port, grace=grace, arrival=read_timeout, ready=ready)
    else:
        from softprompt.serving.replicas import serve_replicas

        serve_replicas(ray, replicas, settings, host, port, ready=ready)


def _describe(served: int, wrong: Mapping[str, str]) -> Iterator[str]:
    """Say how many prompts are served, and of the others why they are not."""
    yield f"{served} prompt{'s' * (served != 1)}" + (f", {len(wrong)} cannot be served:" if wrong else "")
    for name, reason in list(wrong.items())[:SHOWN]:
        yield f"  {name}: {reason}"
    if len(wrong) > SHOWN:
        yield f"  and {len(wrong) - SHOWN} more (GET /v1/prompts)"


def _check_packages(*, ray: bool) -> None:
    """Import the server. Raises MissingPackage for an extra that is not installed."""
    try:
        import_module("softprompt.serving.server")
        if ray:
            import_module("softprompt.serving.replicas")
    except ModuleNotFoundError as error:
        raise MissingPackage(
            str(error.name), f"`softprompt serve{' --ray' if ray else ''}` needs it.",
            f"pip install 'softprompt[serve{',ray' if ray else ''}]'",
        ) from None  # fmt: skip
