"""The command line: one function a verb, in the file of its kind. `flags.py` has what they share."""

# Each file adds its verbs when it is imported; --help shows them in this order.
# isort: off
from softprompt.cli import train, sweep, experiments, distil, evaluate, serve, info, convert  # noqa: F401
from softprompt.cli.app import app, main
# isort: on

__all__ = ["app", "main"]
