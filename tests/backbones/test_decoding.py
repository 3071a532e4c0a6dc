"""Answers do not depend on what a model's generation_config says of decoding."""

from pathlib import Path

import pytest
import torch
from torch import nn

from softprompt.backbones import Backbone, Causal, Seq2Seq
from softprompt.methods.bank import Bank
from softprompt.tasks import Example
from tests import tiny
from tests.prompts import soft_prompt

EXAMPLES = [Example("where is my parcel"), Example("the invoice is wrong how do i log in")]


def of(model: nn.Module, family: str) -> Backbone:
    if family == "t5":
        return Seq2Seq(model, tiny.tokenizer(eos=True), "tiny")
    return Causal(model, tiny.tokenizer(), "tiny")


@pytest.mark.parametrize("family", ["llama", "t5"])
@pytest.mark.parametrize(
    "own", [{"num_beams": 3}, {"do_sample": True, "temperature": 3.0}, {"repetition_penalty": 5.0}, {"min_length": 9}]
)
def test_a_models_own_decoding_is_left_out(family: str, own: dict[str, float]) -> None:
    plain = of(tiny.model(family), family)
    model = tiny.model(family)
    model.generation_config.update(**own)  # type: ignore[union-attr, operator]
    changed = of(model, family)
    answers = []
    for backbone in (plain, changed):
        with backbone.using(Bank({"p": soft_prompt(backbone, "prompt_tuning")})):
            torch.manual_seed(0)
            answers.append(backbone.answer(EXAMPLES, [0, 0], max_new_tokens=8))
            with (
                backbone.frozen_prompts()
            ):  # as free text is scored in training: what is kept of a prompt is for one row
                answers.append(backbone.answer(EXAMPLES, [0, 0], max_new_tokens=8))
    assert answers[1:] == answers[:1] * 3


def test_its_special_tokens_are_kept_and_options_of_a_call_count(tmp_path: Path) -> None:
    model = tiny.model("t5")
    model.generation_config.eos_token_id = [tiny.EOS, 7]  # type: ignore[union-attr]
    backbone = of(model, "t5")
    assert backbone.model.generation_config.eos_token_id == [tiny.EOS, 7]  # type: ignore[union-attr]
    assert backbone.model.generation_config.decoder_start_token_id == tiny.PAD  # type: ignore[union-attr]
    with backbone.using(Bank()):
        penalized = backbone.answer(EXAMPLES, [-1, -1], max_new_tokens=8, repetition_penalty=9.0)
        assert penalized != backbone.answer(EXAMPLES, [-1, -1], max_new_tokens=8)
