"""Ids of sources, with tokenizers that close a text."""

from softprompt.backbones import Causal
from softprompt.tasks import Example
from tests import tiny


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
