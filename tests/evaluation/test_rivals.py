"""Rivals of a prompt learn from train, choose on dev and answer test, as records with log-probabilities."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

import softprompt
from softprompt.errors import UnknownName
from softprompt.evaluation.evaluate import Record, mean_loss, score
from softprompt.evaluation.floors import measure_floors
from softprompt.evaluation.rivals import RIVALS, _predict, can_rival, read_states, rival_records
from softprompt.tasks import Example, Task
from tests import tiny
from tests.candidates import tiny_task
from tests.compare import assert_close

COLOURS, CHOICES = ("red", "green", "blue"), ("good", "bad")


def telling_task() -> Task:
    """A task that one word decides: "red" is good and "blue" is bad, among words that say nothing."""
    draw = torch.Generator().manual_seed(0)

    def some(count: int) -> list[Example]:
        found = []
        for i in range(count):
            said = ["red", "blue"][i % 2]
            words = ["sir", "the", said, *["team"] * int(torch.randint(3, (1,), generator=draw))]
            found.append(Example(" ".join(words), CHOICES[i % 2], " team :", CHOICES, (), str(i)))
        return found

    examples = {"train": some(40), "dev": some(20), "test": some(20)}
    return replace(tiny_task(), examples=examples, choices=CHOICES)


@pytest.mark.parametrize("family", ["llama", "t5", "roberta"])
@pytest.mark.parametrize("name", ["tfidf", "probe"])
def test_what_a_word_decides_is_learned(name: str, family: str) -> None:
    task = telling_task()
    records = rival_records(name, tiny.backbone(family), task)
    assert [record.prediction for record in records] == [example.target for example in task.examples["test"]]
    assert all(record.correct and record.parsed for record in records)
    assert mean_loss(records) < 0.4
    assert score(records, ["accuracy"]).metrics == {"accuracy": 1.0}


def probabilities(records: list[Record]) -> Any:
    return np.exp([[(record.scores or {})[choice] for choice in CHOICES] for record in records])


@pytest.mark.parametrize("name", RIVALS)
def test_scores_are_log_probabilities(name: str) -> None:
    records = rival_records(name, tiny.backbone("llama"), telling_task())
    assert probabilities(records).sum(1) == pytest.approx(np.ones(20), abs=1e-5)


def test_no_answer_is_impossible() -> None:
    """A classifier that is sure of itself says 0 somewhere; its loss on an example that it gets wrong stays finite."""
    sure = LogisticRegression(C=1e9, max_iter=1000).fit([[0.0], [1.0]], list(CHOICES))
    logs = _predict(sure, np.array([[-1e6], [1e6]]), (*CHOICES, "never"))
    assert float(logs.min()) == pytest.approx(np.log(1e-6))
    assert np.isfinite(logs).all()


def test_what_the_frozen_model_says_of_any_text_is_taken_off() -> None:
    """Mean log-probabilities over train are removed: an answer that is always likely is likely no more."""
    backbone, task = tiny.backbone("llama"), telling_task()
    usual, asked = (
        backbone.rank(task.examples[split], [-1] * len(task.examples[split])).double() for split in ("train", "test")
    )
    usual, asked = usual.log_softmax(1), asked.log_softmax(1)
    expected = (asked - usual.mean(0)).softmax(1)
    assert_close(torch.tensor(probabilities(rival_records("calibrated", backbone, task))), expected)


@pytest.mark.parametrize("family", ["llama", "gpt2", "t5", "bart", "roberta", "mamba"])
@pytest.mark.filterwarnings("ignore:.*cannot compute a prompt once", "ignore:.*answers otherwise beside")
def test_states_of_a_text_are_the_same_beside_others(family: str) -> None:
    backbone = tiny.backbone(family)
    asked = [Example(" ".join(["red"] * n), "good", " team :", CHOICES, (), str(n)) for n in (1, 7, 3)]
    together, alone = read_states(backbone, asked), [read_states(backbone, [one]) for one in asked]
    assert len(together) >= 2
    for i, one in enumerate(alone):
        for layer, own in zip(together, one, strict=True):
            assert_close(torch.from_numpy(layer[i]), torch.from_numpy(own[0]), 1e-4)


def test_an_answer_that_train_lacks_is_unlikely_and_no_error() -> None:
    task = telling_task()
    task = replace(task, choices=(*CHOICES, "blue"))
    task = replace(
        task,
        examples={name: [replace(one, choices=task.choices) for one in part] for name, part in task.examples.items()},
    )
    records = rival_records("tfidf", tiny.backbone("llama"), task)
    assert max((record.scores or {})["blue"] for record in records) == pytest.approx(np.log(1e-6))


def test_free_text_has_no_rivals() -> None:
    task, backbone = telling_task(), tiny.backbone("llama")
    free = replace(
        task,
        choices=(),
        examples={name: [replace(one, choices=()) for one in part] for name, part in task.examples.items()},
    )
    assert can_rival(task)
    assert not can_rival(free)
    assert list(measure_floors(backbone, task, ("tfidf",))) == ["majority", "zero_shot", "tfidf"]
    assert list(measure_floors(backbone, free, ("tfidf",))) == ["majority", "zero_shot"]


def test_an_unknown_rival_is_named_before_anything_is_loaded(data: Path) -> None:
    with pytest.raises(UnknownName, match=r"rival 'tfdif'.*tfidf"):
        softprompt.train(data=data, backbone="/nowhere", output=data.with_name("run"), rivals=["tfdif"])
