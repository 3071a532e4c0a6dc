"""No network, one thread, a fixed seed, shapes checked wherever a signature states them; and where the time went.

Fixtures import torch and softprompt, not this file: pytest-xdist's first process reads it too, and runs no test.
"""

import csv
import os
import socket
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import jaxtyping
import pytest

from tests import shapes
from tests.command_line import Cli

# The hub's client reads this when it is imported; without it, it tries for 20 s to reach the hub.
os.environ["HF_HUB_OFFLINE"] = "1"
# Before torch is imported, and for the processes that tests start: more threads than cores are slower.
os.environ["OMP_NUM_THREADS"] = "1"

SOURCE = Path(__file__).parent.parent / "src"


def state_shapes() -> list[str]:
    """List the modules of softprompt that import jaxtyping, in whichever package they stand.

    The others have no shape to check, and checks cost: one is compiled for every function as it is imported. (beartype
    also rejects `Self` in a method that it decorates by itself.)
    """
    return [
        ".".join(path.relative_to(SOURCE).with_suffix("").parts)
        for path in SOURCE.rglob("*.py")
        if "from jaxtyping import" in path.read_text(encoding="utf-8")
    ]


# Before softprompt is imported: the shapes of its annotations become checks.
jaxtyping.install_import_hook(state_shapes(), f"{shapes.__name__}.{shapes.check.__name__}")


def pytest_configure(config: pytest.Config) -> None:
    """Import what softprompt imports before its modules are loaded, in the processes that run tests.

    While jaxtyping's hook (0.3.11) loads one of them, what that imports is compiled from its source: 1,800 files.
    """
    if hasattr(config, "workerinput") or not config.getoption("numprocesses", None):
        import transformers.modeling_layers  # noqa: F401


@pytest.fixture(autouse=True)
def _seeded() -> None:
    import torch

    torch.manual_seed(0)


@pytest.fixture(autouse=True, scope="session")
def _no_curves() -> Iterator[None]:
    """The learning curve costs more time than a tiny run; a test that wants one asks for `curves`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("softprompt.training.finish.write_curve", lambda *_: False)
        yield


@pytest.fixture
def curves(monkeypatch: pytest.MonkeyPatch) -> None:
    from softprompt.training.learning_curve import write_curve

    monkeypatch.setattr("softprompt.training.finish.write_curve", write_curve)


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: socket.socket, address: object) -> None:
        raise OSError(f"a test tried to reach {address}")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture(autouse=True)
def _no_token_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOFTPROMPT_TOKEN_CACHE", "0")  # what a user's own cache holds is none of the tests' business


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    """The command line inside this process: words in; exit code, stdout and stderr out."""
    from softprompt.cli import main

    def run(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["softprompt", *map(str, words)])
        with pytest.raises(SystemExit) as exit:
            main()
        captured = capsys.readouterr()
        code = exit.value.code
        return (code if isinstance(code, int) else 0 if code is None else 1), captured.out, captured.err

    return run


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    from tests import tiny

    return tiny.save_tiny("llama", tmp_path_factory.mktemp("models") / "llama")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A CSV of forty rows, told apart by one word."""
    from tests.candidates import tiny_task

    path = tmp_path / "messages.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        for i in range(5):
            writer.writerows([f"{e.source} {'yes ' * i}".strip(), e.target] for e in tiny_task().examples["train"])
    return path


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the tests that start processes first.

    pytest-xdist gives the first half to its first worker, and what is left at the end to whoever is done: so those
    tests share one Ray at a time and their fixtures, and the suite does not end with one worker waiting for them.
    """
    items.sort(key=lambda item: item.get_closest_marker("processes") is None)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the seconds that each folder of tests took, summed over all workers, and the five slowest tests."""
    folders: Counter[str] = Counter()
    tests: Counter[str] = Counter()
    for report in (one for found in terminalreporter.stats.values() for one in found):
        if isinstance(report, pytest.TestReport):
            name = report.nodeid.removeprefix("tests/")
            folders[name.partition("::")[0].rpartition("/")[0] or "."] += report.duration
            tests[name] += report.duration
    terminalreporter.section("seconds by folder, then the slowest tests")
    for name, seconds in [*folders.most_common(), *tests.most_common(5)]:
        terminalreporter.write_line(f"{seconds:7.1f}  {name}")
