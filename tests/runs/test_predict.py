"""What evaluate() and predict() return: attributes, a short repr, and the JSON of the command line."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import softprompt
from softprompt.errors import BadInput
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


def test_a_chat_is_read_alike_by_all_verbs(tmp_path: Path) -> None:
    backbone = tiny.save_tiny("llama", tmp_path / "model")
    (tmp_path / "model" / "chat_template.jinja").write_text(
        "{% for m in messages %}{{ m['role'] }} : {{ m['content'] }} {% endfor %}"
        "{% if add_generation_prompt %}team : {% endif %}"
    )
    chats = [
        [("user", f"a {text}"), ("assistant", "b"), ("user", f"c {word}"), ("assistant", label)]
        for word, label in (("really", "good"), ("not", "bad"))
        for text in "abcdefgh"
    ]
    rows = [{"messages": [{"role": role, "content": text} for role, text in turns]} for turns in chats]
    data = tmp_path / "chats.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = {"backbone": backbone, "steps": 2, "settings": {"length": 2}, "dev": data, "test": data}
    softprompt.train(data=data, chat=True, output=tmp_path / "run", **given)
    card = softprompt.load_prompt(tmp_path / "run").card
    assert card.template == "{conversation} team : "
    from_file = softprompt.predict(tmp_path / "run", data=data)
    from_json = softprompt.predict(tmp_path / "run", [json.dumps(row["messages"][:-1]) for row in rows])
    assert from_file == from_json
    assert from_file[0].source == "user : a a assistant : b user : c really team :"
    scored = softprompt.evaluate(tmp_path / "run", data, label="reply")
    assert scored.metrics["accuracy"] == card.scores["test"]["metrics"]["accuracy"]
    (tmp_path / "odd.jsonl").write_text(json.dumps({"messages": [{"role": "tool", "content": "a"}]}) + "\n")
    with pytest.raises(BadInput, match=r"odd\.jsonl.*line 1: the turns before the answer are tool"):
        softprompt.predict(tmp_path / "run", data=tmp_path / "odd.jsonl")
    said = softprompt.predict(tmp_path / "run", ["where is it {a}"])[0]
    assert said.source == "user : where is it {a} team :"


def test_a_shipped_task_takes_no_chat_template(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="--chat only go with --data"):
        softprompt.train(task="support", chat=True, backbone="smollm2-135m", output=tmp_path / "run")
