"""Serve tuned prompts over HTTP."""

from pathlib import Path
from typing import Annotated, Any

import typer

from softprompt.cli.app import app, err
from softprompt.cli.flags import BackboneName, Device, Dtype, Ray, Spread
from softprompt.errors import BadInput, MissingPackage

LOOPBACK = ("127.0.0.1", "::1", "localhost")


@app.command(cls=Spread)
def serve(
    backbone: BackboneName,
    prompts: Annotated[Path, typer.Option(help="Folder of run folders; a prompt's name is its folder's.")],
    host: Annotated[str, typer.Option(help="Address to listen at; 0.0.0.0: all.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")] = 8000,
    api_key: Annotated[
        list[str] | None,
        typer.Option(envvar="SOFTPROMPT_API_KEY", help="Key that clients must give; repeat it, or divide by commas."),
    ] = None,
    admin_key: Annotated[
        list[str] | None,
        typer.Option(
            envvar="SOFTPROMPT_ADMIN_KEY", help="Key that may also put and delete prompts; without, none may."
        ),
    ] = None,
    dtype: Dtype = "float32",
    device: Device = None,
    max_input_tokens: Annotated[int, typer.Option(min=1, help="Of each text.")] = 4096,
    max_output_tokens: Annotated[int, typer.Option(min=1, help="Of each answer.")] = 1024,
    max_body_kb: Annotated[int, typer.Option(min=1, help="Of a request that asks.")] = 1000,
    max_prompt_mb: Annotated[int, typer.Option(min=1, help="Of a request that puts a prompt.")] = 64,
    max_concurrent: Annotated[int, typer.Option(min=1, help="Requests that a key has under way.")] = 64,
    queue: Annotated[int, typer.Option(min=1, help="Texts that wait; more are refused (429).")] = 1024,
    batch_rows: Annotated[
        int | None, typer.Option(min=1, help="Most generations together: 32 on a CPU, else 128.")
    ] = None,
    batch_tokens: Annotated[
        int | None, typer.Option(min=64, help="Most tokens they hold: 8192 on a CPU, else 131072.")
    ] = None,
    pass_tokens: Annotated[
        int | None, typer.Option(min=64, help="Most tokens read at a time: 2048 on a CPU, else 32768.")
    ] = None,
    wait_ms: Annotated[float, typer.Option(min=0, help="How long a first request waits for others.")] = 4.0,
    cache_mb: Annotated[int, typer.Option(min=0, help="For prompts' keys and values.")] = 1000,
    memory_mb: Annotated[int, typer.Option(min=1, help="For prompts' tensors.")] = 1000,
    ray: Ray = None,
    replicas: Annotated[
        int | None,
        typer.Option(min=1, help="Servers of the Ray cluster; one for each GPU, or machine, when not given."),
    ] = None,
    grace: Annotated[float, typer.Option(min=0, help="Seconds to finish what runs when told to end.")] = 30.0,
) -> None:
    """Answer with the prompts of a folder over HTTP, many of them in one batch (docs/serving.md)."""
    if replicas is not None and ray is None:
        raise BadInput(f"--replicas {replicas}: expected --ray beside it; without, this process is the one server.")
    try:
        from softprompt.serving.http.auth import Keys
        from softprompt.serving.limits import Limits
        from softprompt.serving.server import build
        from softprompt.serving.server import serve as run

        if ray is not None:
            from softprompt.serving.replicas import serve_replicas
    except ModuleNotFoundError as error:
        raise MissingPackage(
            str(error.name), f"`softprompt serve{'' if ray is None else ' --ray'}` needs it.",
            f"pip install 'softprompt[serve{'' if ray is None else ',ray'}]'",
        ) from None  # fmt: skip
    keys = Keys.of(api_key or [], admin_key or [])
    limits = Limits(
        body=max_body_kb * 1000, prompt_body=max_prompt_mb * 1_000_000, input_tokens=max_input_tokens,
        output_tokens=max_output_tokens, concurrent=max_concurrent,
    )  # fmt: skip
    batching = {
        "rows": batch_rows, "tokens": batch_tokens, "pass_tokens": pass_tokens, "wait": wait_ms / 1000, "queue": queue,
        "cache": cache_mb * 1_000_000,
    }  # fmt: skip
    settings: dict[str, Any] = {
        "backbone": backbone, "prompts": prompts, "dtype": dtype, "device": device, "keys": keys, "limits": limits,
        "batching": batching, "memory": memory_mb * 1_000_000, "grace": grace,
    }  # fmt: skip
    if not keys.use and host not in LOOPBACK:
        err.print(f"note: anybody who reaches {host}:{port} may ask; give --api-key to change that", markup=False)

    def ready(address: str, servers: int | None = None) -> None:
        on = "" if servers is None else f" by {servers} replicas" if servers > 1 else " by 1 replica"
        err.print(
            f"serving {backbone} with the prompts of {prompts} at {address}{on} (docs at {address}/docs)",
            soft_wrap=True,
        )

    if ray is not None:
        serve_replicas(ray, replicas, settings, host, port, ready=ready)
    else:
        run(build(**settings), host, port, grace=grace, ready=ready)
