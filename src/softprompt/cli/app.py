"""The command line's one application. JSON goes to stdout alone, everything else to stderr.

A verb's module is imported when the verb is called, so --help and --version load no model code.
"""

import io
import json
import os
import signal
import sys
import warnings
from importlib import import_module
from importlib.metadata import version
from typing import Annotated, Any

import typer
from rich.console import Console
from typer.core import TyperGroup

from softprompt.errors import BadInput, CannotWrite, OutOfMemory, SoftPromptError
from softprompt.runtime.interrupts import raise_interrupt
from softprompt.runtime.launch import check_single_process, place

VERBS = {
    "train": ("train", "Train a soft prompt (one per --method) and save it to --output."),
    "check": ("train", "Resolve everything that train would, load no weights, and report all problems at once."),
    "sweep": ("experiments", "Try many settings in the same batches; dev chooses one, and test is scored once."),
    "compare": ("experiments", "Compare methods fairly: equal budgets, steps and seeds (docs/compare.md)."),
    "reproduce": ("experiments", "Run a paper's table, or go on with it, and print it beside the published one."),
    "distil": ("distil", "Train one prompt for several tasks, taught by their runs (docs/transfer.md)."),
    "evaluate": ("evaluate", "Score a finished run on labelled data, beside the floors."),
    "predict": ("evaluate", "Answer texts with a finished run."),
    "serve": ("serve", "Serve the prompts of a folder over HTTP, many of them in one batch (docs/serving.md)."),
    "show": ("info", "Describe a run, a task or a recipe."),
    "list": ("info", "List methods, backbones, tasks, recipes or tables."),
    "env": ("info", "Print what softprompt runs on here."),
    "export": ("convert", "Write a finished run as another library reads it (docs/peft.md, docs/vllm.md)."),
    "import": ("convert", "Make a run of a prompt that another library has trained (docs/peft.md)."),
}
"""Each verb's module in softprompt.cli, and the first line of its help."""


class Verbs(TyperGroup):
    """The verbs, each imported when it is needed."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Import the verb's module, whose decorators add it to `app`, and return its command."""
        if cmd_name not in VERBS:
            return None
        import_module(f"softprompt.cli.{VERBS[cmd_name][0]}")
        group = typer.main.get_command(app)
        assert isinstance(group, TyperGroup)
        return group.commands[cmd_name]

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in VERBS.items()])


app = typer.Typer(
    cls=Verbs,
    help="Train soft prompts on frozen language models, compare and serve them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
FIRST = place().rank == 0
err = Console(stderr=True, highlight=False, quiet=not FIRST)
out = Console(highlight=False, quiet=not FIRST)


def _import(names: list[str] | None) -> None:
    if names:
        from softprompt.runtime.plugins import import_modules

        import_modules(names)


def _put_imports_first(words: list[str]) -> list[str]:
    """Move `--import MODULE` before the verb, so that it may stand anywhere."""
    imports: list[str] = []
    others: list[str] = []
    left = iter(words)
    for word in left:
        if word == "--":
            return [*imports, *others, word, *left]
        if word == "--import":
            imports += [word, *([following] if (following := next(left, None)) is not None else [])]
        else:
            (imports if word.startswith("--import=") else others).append(word)
    return [*imports, *others]


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"softprompt {version('softprompt')}")
        raise typer.Exit


@app.callback()
def start(
    ctx: typer.Context,
    print_version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    imports: Annotated[
        list[str] | None,
        typer.Option(
            "--import", callback=_import, help="Module or .py file to import first (a method of your own); repeatable."
        ),
    ] = None,
) -> None:
    """Train soft prompts on frozen language models, compare and serve them."""
    if ctx.invoked_subcommand != "train":
        check_single_process(str(ctx.invoked_subcommand))


def print_json(value: object) -> None:
    """Print `value` as JSON to stdout."""
    plain = (sys.stdout.encoding or "ascii").lower().replace("-", "") != "utf8"
    json.dump(value, sys.stdout, indent=2, ensure_ascii=plain, allow_nan=False)
    sys.stdout.write("\n")


def _is_heard(error: SoftPromptError) -> bool:
    """Return whether this process prints `error`.

    Wrong arguments are wrong in all processes, wrong files on a machine; what ends one process alone, that one prints.
    """
    here = place()
    own = isinstance(error, CannotWrite | OutOfMemory) or (isinstance(error, BadInput) and here.local_rank == 0)
    return here.rank == 0 or own


def main() -> None:
    """Run the command line; a SoftPromptError becomes one line and an exit code (1 failed, 2 bad usage)."""
    signal.signal(signal.SIGINT, raise_interrupt)
    # A warning is one line, not the place in our code where it was raised.
    warnings.showwarning = lambda message, *_, **__: err.print(f"note: {message}", soft_wrap=True, markup=False)
    sys.argv[1:] = _put_imports_first(sys.argv[1:])
    if isinstance(sys.stdin, io.TextIOWrapper):  # texts are UTF-8 whatever the terminal's language
        sys.stdin.reconfigure(encoding="utf-8")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":  # a pipe in ASCII, say
            stream.reconfigure(errors="backslashreplace")
    try:
        app()
    except SoftPromptError as error:
        rank = place().rank
        err.quiet = not _is_heard(error)
        text = str(error).replace("[", r"\[")
        err.print(f"[bold red]error:[/] {f'process {rank}: ' if rank else ''}{text}", soft_wrap=True)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        # The reader went away (`| head`): end quietly, as other tools do.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
