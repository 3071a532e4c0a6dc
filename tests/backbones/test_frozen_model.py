"""The frozen model's own dropout acts in training steps and nowhere else."""

from pathlib import Path

import pytest

import softprompt
from softprompt.evaluation.evaluate import evaluate_examples
from softprompt.evaluation.floors import measure_floors
from softprompt.methods.bank import Bank
from softprompt.tasks import Example
from softprompt.training.loop import tune
from tests import tiny
from tests.candidates import candidate, tiny_task


@pytest.mark.parametrize("family", ["llama", "t5", "bert"])
def test_scoring_again_gives_the_same_numbers_and_those_without_dropout(family: str) -> None:
    example = Example("the invoice is wrong", "bad", choices=("good", "bad"))
    scores = [
        evaluate_examples(backbone, [example])[0].scores
        for backbone in (tiny.backbone(family, dropout=True), tiny.backbone(family))
        for _ in range(3)
    ]
    assert all(one == scores[0] for one in scores)
    dropping, plain = (measure_floors(tiny.backbone(family, dropout=on), tiny_task()) for on in (True, False))
    assert dropping == plain


def test_a_training_step_draws_and_an_evaluation_between_two_steps_does_not() -> None:
    losses = {}
    for on in (True, False):
        backbone = tiny.backbone("t5", dropout=on)
        one = candidate(backbone, "prompt_tuning", steps=4, evaluate_every=2)
        tune(backbone, [one])
        losses[on] = [entry["loss"] for entry in one.history if "loss" in entry]
        assert not backbone.model.training
        task = tiny_task()
        with backbone.using(Bank({"one": one.prompt.eval()})):
            first, again = (evaluate_examples(backbone, task.examples["dev"], 0) for _ in range(2))
        assert [record.scores for record in first] == [record.scores for record in again]
    assert losses[True] != losses[False]


def test_evaluate_says_what_the_runs_own_card_says(data: Path, tmp_path: Path) -> None:
    model, test = tiny.save_tiny("t5", tmp_path / "t5"), tmp_path / "test.csv"
    test.write_text(data.read_text().replace(" red", " red red"))
    made = softprompt.train(
        data=data, test=test, backbone=model, output=tmp_path / "run", dropout=True, steps=4, batch=4,
        settings={"evaluate_every": 2, "length": 3},
    )  # fmt: skip
    scores = made["prompt_tuning"].card.scores
    found = softprompt.evaluate(tmp_path / "run", test, label="label")
    assert found.metrics == scores["test"]["metrics"]
    assert found.floors["zero_shot"] == scores["zero_shot"]["metrics"]


def test_the_model_is_in_eval_mode_unless_a_training_step_asks_for_dropout() -> None:
    for asked in (False, True):
        backbone = tiny.backbone("t5", dropout=asked)
        assert not backbone.model.training
        with backbone.with_dropout():
            assert backbone.model.training is asked
            with backbone.with_dropout(False):
                assert not backbone.model.training
            assert backbone.model.training is asked
        assert not backbone.model.training
