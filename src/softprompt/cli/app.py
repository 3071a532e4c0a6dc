"""The command line's one application. JSON goes to stdout alone, everything else to stderr."""

import json
import os
import signal
import sys
import warnings
from typing import Any

import typer
from rich.console import Console

from softprompt.errors import BadInput, CannotWrite, OutOfMemory, SoftPromptError
from softprompt.runtime import distributed
from softprompt.runtime.interrupts import raise_interrupt

app = typer.Typer(
    help="Tune soft prompts on frozen language models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
FIRST = distributed.place()[0] == 0
err = Console(stderr=True, highlight=False, quiet=not FIRST)
out = Console(highlight=False, quiet=not FIRST)


@app.callback()
def _started(ctx: typer.Context) -> None:
    if ctx.invoked_subcommand != "train":
        distributed.only_one(str(ctx.invoked_subcommand))


def print_json(value: Any) -> None:
    json.dump(value, sys.stdout, indent=2, ensure_ascii=False, allow_nan=False)
    sys.stdout.write("\n")


def _is_heard(error: SoftPromptError) -> bool:
    """Whether this process prints `error`.

    Wrong words are wrong in all processes, wrong files on a machine; what ends one process alone, that one must say.
    """
    rank, local, _ = distributed.place()
    return rank == 0 or isinstance(error, CannotWrite | OutOfMemory) or (isinstance(error, BadInput) and local == 0)


def main() -> None:
    """Run the command line; our errors become one line and an exit code (1 failed, 2 bad usage)."""
    signal.signal(signal.SIGINT, raise_interrupt)
    warnings.showwarning = lambda message, *_, **__: err.print(f"note: {message}", soft_wrap=True, markup=False)
    try:
        app()
    except SoftPromptError as error:
        rank = distributed.place()[0]
        err.quiet = not _is_heard(error)
        text = str(error).replace("[", r"\[")
        err.print(f"[bold red]error:[/] {f'process {rank}: ' if rank else ''}{text}", soft_wrap=True)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        # The reader went away (`| head`): end quietly, as other tools do.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
