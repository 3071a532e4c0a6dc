"""The command line's one application. JSON goes to stdout alone, everything else to stderr."""

import json
import os
import signal
import sys
import warnings
from typing import Any

import typer
from rich.console import Console

from softprompt.errors import SoftPromptError
from softprompt.training.interrupt import raise_interrupted

app = typer.Typer(
    help="Tune soft prompts on frozen language models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
err = Console(stderr=True, highlight=False)
out = Console(highlight=False)


def print_json(value: Any) -> None:
    json.dump(value, sys.stdout, indent=2, ensure_ascii=False, allow_nan=False)
    sys.stdout.write("\n")


def main() -> None:
    """Run the command line; our errors become one line and an exit code (1 failed, 2 bad usage)."""
    signal.signal(signal.SIGINT, raise_interrupted)
    warnings.showwarning = lambda message, *_, **__: err.print(f"note: {message}", soft_wrap=True, markup=False)
    try:
        app()
    except SoftPromptError as error:
        text = str(error).replace("[", r"\[")
        err.print(f"[bold red]error:[/] {text}", soft_wrap=True)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        # The reader went away (`| head`): end quietly, as other tools do.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
