"""What evaluate() and predict() return: attributes, a short repr, and the JSON of the command line."""

from collections.abc import Callable
from pathlib import Path

import pytest

import softprompt
from softprompt.runs.predict import Evaluation, Prediction
from tests import tiny
from tests.candidates import finished
from tests.data_files import labelled, write


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    finished(tmp_path / "run")
    load: Callable[..., object] = lambda name, **given: tiny.backbone("llama", max_source=given["max_source"])  # noqa: E731
    monkeypatch.setattr("softprompt.runs.predict.load_backbone", load)
    return tmp_path / "run"


def test_a_prediction_is_read_by_its_attributes(run: Path) -> None:
    (found,) = softprompt.predict(run, ["the parcel is late"])
    assert isinstance(found, Prediction)
    assert found.probabilities is not None
    assert found.probability == found.probabilities[found.prediction] == max(found.probabilities.values())
    assert repr(found) == f"Prediction({found.prediction!r}, {100 * found.probability:.0f} %)"
    assert list(found.as_json()) == ["source", "prediction", "probability", "probabilities", "truncated"]
    free = Prediction("a text", "an answer", None, None, truncated=False)
    assert repr(free) == "Prediction('an answer')"


def test_an_evaluation_is_read_by_its_attributes(run: Path, tmp_path: Path) -> None:
    data = write(tmp_path / "data.csv", labelled(6))
    found = softprompt.evaluate(run, data, label="label")
    assert isinstance(found, Evaluation)
    names = ["run", "name", "data", "metrics", "n", "truncated", "empty", "unparsable", "floors"]
    assert list(found.as_json()) == names
    assert found.as_json()["metrics"] == found.metrics
    assert found.n == 6
    assert set(found.floors) == {"majority", "zero_shot"}
    assert repr(found).startswith(f"Evaluation({found.name!r} on {data}, 6 examples: accuracy ")


def test_a_prompt_shows_what_it_is(run: Path) -> None:
    prompt = softprompt.load_prompt(run)
    assert repr(prompt) == f"Prompt({prompt.card.name!r}, dept, {prompt.card.length} rows, {prompt.card.backbone})"
