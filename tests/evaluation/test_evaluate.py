"""Scores that are not numbers are not an answer; records hold what is scored."""

from pathlib import Path

import pytest
import torch

import softprompt
from softprompt.errors import RunFailed
from softprompt.evaluation.evaluate import evaluate_examples, score
from softprompt.methods.bank import Bank
from softprompt.methods.soft_prompt import SoftPrompt
from softprompt.tasks import Example
from tests import tiny
from tests.candidates import finished
from tests.prompts import soft_prompt

EXAMPLES = [Example(text, "good", "", ("good", "bad")) for text in ("a red b", "where is my parcel")]


def overgrown(prompt: SoftPrompt) -> SoftPrompt:
    for tensor in prompt.parameters():
        tensor.data.fill_(3e38)
    return prompt


def test_a_prompt_past_all_measure_answers_nothing_and_leaves_others_alone() -> None:
    backbone = tiny.backbone("gpt2")
    good = soft_prompt(backbone, "prompt_tuning")
    with backbone.using(Bank({"good": good, "huge": overgrown(soft_prompt(backbone, "prompt_tuning"))})):
        records = evaluate_examples(backbone, EXAMPLES, 1)
        assert [(one.prediction, one.parsed, one.correct, one.scores) for one in records] == [
            ("", False, False, None)
        ] * 2
        scores = [one.scores for one in evaluate_examples(backbone, EXAMPLES, 0)]
    with backbone.using(Bank({"good": good})):
        assert scores == [one.scores for one in evaluate_examples(backbone, EXAMPLES, 0)]


def test_predict_says_that_scores_are_not_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prompt = finished(tmp_path, "prompt_tuning", "gpt2")
    prompt.form.prompt.fill_(3e38)  # type: ignore[union-attr]
    prompt.save(tmp_path)
    backbone = tiny.backbone("gpt2")
    monkeypatch.setattr("softprompt.runs.predict.load_backbone", lambda *_, **__: backbone)
    assert torch.isfinite(prompt.form.prompt).all()  # type: ignore[union-attr]
    with pytest.raises(RunFailed, match=r"The scores of .* are not numbers"):
        softprompt.predict(tmp_path, ["a red b"])


def test_records_hold_the_right_answers_where_they_are_not_the_target_as_written() -> None:
    backbone = tiny.backbone("t5")
    text = "the invoice is wrong"
    examples = [
        Example("hello", text),
        Example("hello", text, references=(text, "hello")),
        Example("hello", text, answer_limit=3),
    ]
    records = evaluate_examples(backbone, examples)
    assert [record.as_json().get("references") for record in records] == [None, (text, "hello"), ("the invoice",)]
    assert score(records, ["exact_match"]).n == 3
