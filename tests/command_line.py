"""What tests that run the command line inside this process share; the fixture `cli` is in conftest.py."""

from collections.abc import Callable

Cli = Callable[..., tuple[int, str, str]]
QUICK = ("--steps", "4", "--batch", "4", "--set", "evaluate_every=2", "--set", "length=3")
