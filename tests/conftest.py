"""No network, one thread, a fixed seed, and shapes checked wherever a signature states them."""

import csv
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import jaxtyping
import pytest

# The hub's client reads this when it is imported; without it, it tries for 20 s to reach the hub.
os.environ["HF_HUB_OFFLINE"] = "1"

SOURCE = Path(__file__).parent.parent / "src"


def state_shapes() -> list[str]:
    """List the modules of softprompt that import jaxtyping, in whichever package they stand.

    The others have no shape to check, and beartype cannot check them all: it compiles a check for every function as
    it is imported, and rejects a protocol that is not `runtime_checkable` and `Self` in a decorated method.
    """
    return [
        ".".join(path.relative_to(SOURCE).with_suffix("").parts)
        for path in SOURCE.rglob("*.py")
        if "from jaxtyping import" in path.read_text(encoding="utf-8")
    ]


# Before softprompt is imported: the shapes of its annotations become checks.
jaxtyping.install_import_hook(state_shapes(), "beartype.beartype")

import torch  # noqa: E402

from softprompt.cli import main  # noqa: E402
from softprompt.training.learning_curve import write_curve  # noqa: E402
from tests import tiny  # noqa: E402
from tests.candidates import tiny_task  # noqa: E402
from tests.command_line import Cli  # noqa: E402

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True, scope="session")
def _no_curves() -> Iterator[None]:
    """The learning curve costs more time than a tiny run; a test that wants one asks for `curves`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("softprompt.training.finish.write_curve", lambda *_: False)
        yield


@pytest.fixture
def curves(monkeypatch: pytest.MonkeyPatch) -> None:
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
    return tiny.save_tiny("llama", tmp_path_factory.mktemp("models") / "llama")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A CSV of forty rows, told apart by one word."""
    path = tmp_path / "messages.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        for i in range(5):
            writer.writerows([f"{e.source} {'yes ' * i}".strip(), e.target] for e in tiny_task().examples["train"])
    return path
