"""What trackers get is what metrics.jsonl holds."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
from accelerate.tracking import GeneralTracker

from softprompt.errors import MissingPackage, UnknownName
from softprompt.training import train
from softprompt.training.tracking import check_trackers, flatten
from tests import tiny
from tests.compare import assert_close
from tests.data_files import LINES

WORDS: dict[str, Any] = {"steps": 4, "batch": 4, "settings": {"evaluate_every": 2, "length": 3}}


class Notebook(GeneralTracker):
    """A tracker of one's own, in accelerate's form."""

    name = "notebook"
    requires_logging_directory = False

    def __init__(self) -> None:
        super().__init__()
        self.config: dict[str, Any] = {}
        self.lines: list[tuple[int, dict[str, Any]]] = []
        self.finished = False

    @property
    def tracker(self) -> object:
        return self.lines

    def start(self) -> None:
        pass

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self.config = values

    def log(self, values: dict[str, Any], step: int, **_: Any) -> None:
        self.lines.append((step, values))

    def finish(self) -> None:
        self.finished = True


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "rows.csv").write_text("\n".join(LINES))
    return tmp_path / "rows.csv"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny.save_tiny("llama", tmp_path_factory.mktemp("models") / "llama")


def kept(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_tracker_gets_the_lines_and_what_the_run_was_told(data: Path, model: str, tmp_path: Path) -> None:
    seen = Notebook()
    train.train(data=data, backbone=model, output=tmp_path / "run", tracker=seen, **WORDS)
    lines = kept(tmp_path / "run")
    assert len(lines) == 6, "four steps, two evaluations"
    assert [{"step": step, **values} for step, values in seen.lines] == [flatten(line) for line in lines]
    assert {"loss", "rates/prompt", "dev/accuracy", "dev_loss"} <= {name for _, line in seen.lines for name in line}
    told = json.loads((tmp_path / "run" / "run.json").read_text())
    assert seen.config["recipe/steps"] == told["recipe"]["steps"] == 4
    assert seen.config["setting/backbone"] == model
    assert all(isinstance(value, (bool, int, float, str)) for value in seen.config.values())
    assert seen.finished


def test_prompts_tuned_together_are_logged_under_their_names(data: Path, model: str, tmp_path: Path) -> None:
    seen, methods = Notebook(), ("prompt_tuning", "mpt")
    train.train(data=data, backbone=model, output=tmp_path / "run", tracker=[seen], method=methods, **WORDS)
    for method in methods:
        name = f"{method}-rows"
        mine = [
            {"step": step} | {key.removeprefix(f"{name}/"): value for key, value in values.items()}
            for step, values in seen.lines
            if next(iter(values)).startswith(f"{name}/")
        ]
        assert mine == [flatten(line) for line in kept(tmp_path / "run" / method)]
        assert seen.config[f"{name}/recipe/method"] == method


def test_tensorboard_shows_the_same_numbers(data: Path, model: str, tmp_path: Path) -> None:
    reading = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    train.train(data=data, backbone=model, output=tmp_path / "run", tracker="tensorboard", **WORDS)
    read = reading.EventAccumulator(str(tmp_path / "run" / "softprompt"))
    read.Reload()
    lines = [flatten(line) for line in kept(tmp_path / "run")]
    for name in ("loss", "rates/prompt", "dev/accuracy", "dev_loss"):
        expected = [(line["step"], line[name]) for line in lines if name in line]
        assert_close([(event.step, event.value) for event in read.Scalars(name)], expected)


def test_a_tracker_that_is_not_there_is_an_error_before_work_starts(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert check_trackers(None) == []
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingPackage, match="pip install wandb"):
        train.train(data=data, backbone="none", output=tmp_path / "run", tracker="wandb")
    with pytest.raises(UnknownName, match="Did you mean 'tensorboard'"):
        train.train(data=data, backbone="none", output=tmp_path / "run", tracker="tensorbord")
    assert not (tmp_path / "run").exists()
