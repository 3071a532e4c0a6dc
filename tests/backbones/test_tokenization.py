"""Ids of texts, with tokenizers that close a text or have more tokens than the model."""

import copy

import pytest
import torch

from softprompt.backbones import Causal
from softprompt.errors import BadInput
from softprompt.methods.bank import Bank
from softprompt.tasks import Example
from tests import tiny
from tests.compare import assert_close
from tests.prompts import soft_prompt


def test_a_closing_token_never_stands_between_a_decoders_source_and_its_answer() -> None:
    closing = Causal(tiny.model("llama"), tiny.tokenizer(bos=True, eos=True), "closing")
    plain = Causal(tiny.model("llama"), tiny.tokenizer(bos=True), "plain")
    assert closing.tokenizer("hello").input_ids[-1] == tiny.EOS, "or this shows nothing"
    for example in (Example("hello", cue=" team :"), Example("the invoice is wrong how do i log in", cue=" team :")):
        for room in (24, 7):
            ids, cut = closing.tokens.source_ids(example, room)
            assert (ids, cut) == plain.tokens.source_ids(example, room)
            assert ids[-1] != tiny.EOS
        assert closing.tokens.size(example, targets=False) == plain.tokens.size(example, targets=False)
    assert closing.tokens.opening == plain.tokens.opening


def test_a_token_that_the_model_does_not_have_is_named_and_never_a_soft_token() -> None:
    tokenizer = copy.deepcopy(tiny.tokenizer())
    tokenizer.add_tokens([f"filler{i}" for i in range(tiny.V - len(tokenizer))])
    assert len(tokenizer) == tiny.V
    tokenizer.add_tokens(["added"])
    backbone = Causal(tiny.model("llama"), tokenizer, "tiny")
    message = rf"'added' \({tiny.V}\), and the embedding table of tiny ends at {tiny.V - 1}"
    with backbone.using(Bank({"p": soft_prompt(backbone, "prompt_tuning")})):
        assert backbone.answer([Example("hello")], [0], max_new_tokens=3)
        for example in (Example("hello added"), Example("hello", "added")):
            with pytest.raises(BadInput, match=message):
                backbone.pose([example], [0], targets=True)
        with pytest.raises(BadInput, match=message):
            backbone.rank([Example("hello", choices=("good", "added"))], [0])


@pytest.mark.parametrize("family", ["llama", "t5"])
def test_an_answer_with_a_limit_is_learned_and_scored_as_the_tokens_that_are_left(family: str) -> None:
    tokens = tiny.backbone(family).tokens
    text = "the invoice is wrong"
    whole, cut = Example("hello", text), Example("hello", text, references=(text, "hello"), answer_limit=3)
    assert tokens.golds(whole) == (text,)
    assert tokens.golds(cut) == ("the invoice", "hello")
    ids = tokens.target_ids(cut)
    assert ids == [*tokens.target_ids(whole)[:2], tokens.eos()]
    assert tokens.size(cut, targets=True) == tokens.size(whole, targets=True) - 2


@pytest.mark.parametrize("pad", ["added", None])
def test_padding_that_the_model_does_not_have_changes_no_answer(pad: str | None) -> None:
    tokenizer = copy.deepcopy(tiny.tokenizer())
    tokenizer.add_tokens([f"filler{i}" for i in range(tiny.V - len(tokenizer))])
    if pad is None:
        tokenizer.pad_token = tokenizer.eos_token = None
    else:
        tokenizer.add_special_tokens({"pad_token": pad})
        assert tokenizer.pad_token_id == tiny.V
    backbone = Causal(tiny.model("llama"), tokenizer, "tiny")
    plain = Causal(tiny.model("llama"), tiny.tokenizer(), "tiny")
    examples = [Example(text, choices=("good", "bad")) for text in ("hello", "the invoice is wrong how do i log in")]
    scores, prompt = [], soft_prompt(plain, "dept")
    for one in (backbone, plain):
        with one.using(Bank({"p": prompt})), torch.no_grad():
            scores.append(one.rank(examples, [0, 0]))
    assert_close(scores[0], scores[1])
