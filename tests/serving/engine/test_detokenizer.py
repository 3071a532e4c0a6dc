"""Pieces of text, put together, are the text of all tokens; tokens are sampled as configured."""

import random
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from softprompt.serving.engine.detokenizer import StopMatcher, TextStream
from softprompt.serving.engine.sampler import Sampler, Sampling, sample
from tests import tiny

TEXTS = ["héllo wörld — it's 5 o'clock 🙂🙃 日本語", " \n two  blanks \n\n ", "good bad", ""]


def _bytes() -> PreTrainedTokenizerFast:
    """A byte-level tokenizer with few merges: most characters beyond ASCII are several tokens."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(TEXTS, trainers.BpeTrainer(vocab_size=280, initial_alphabet=alphabet, show_progress=False))
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token="</s>")


def _pieces() -> PreTrainedTokenizerFast:
    """As SentencePiece's: a blank is part of the word after it, and falls away at the beginning of a text."""
    words = ["\u2581", "\u2581good", "\u2581bad", "ly", "\u2581two", "."]
    made = Tokenizer(models.WordLevel({w: i for i, w in enumerate(["<unk>", "</s>", *words])}, unk_token="<unk>"))
    made.decoder = decoders.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=made, unk_token="<unk>", eos_token="</s>")


@pytest.mark.parametrize("tokenizer", [_bytes(), _pieces(), tiny.tokenizer()], ids=["bytes", "pieces", "words"])
@pytest.mark.parametrize("strip", [True, False])
@pytest.mark.parametrize("stops", [(), ("o",), ("d b", "two", "🙂")])
def test_pieces_are_the_whole_text(tokenizer: PreTrainedTokenizerFast, strip: bool, stops: tuple[str, ...]) -> None:
    draw = random.Random(0)
    cases = [tokenizer(text, add_special_tokens=False).input_ids for text in TEXTS]
    cases += [[draw.randrange(len(tokenizer)) for _ in range(12)] for _ in range(60)]
    for ids in cases:
        stream, found = TextStream(tokenizer, stops, strip=strip), ""
        for token in ids:
            found += stream.add(token)
            if stream.stopped:
                break
        found += stream.end()
        whole = tokenizer.decode(ids, skip_special_tokens=True)
        places = [(whole.find(stop) + len(stop), whole.find(stop)) for stop in stops if stop in whole]
        whole = whole[: min(places)[1]] if places else whole  # before the one that is complete first
        assert found == (whole.strip() if strip else whole)
        assert stream.stopped == bool(places)


def test_temperature_nucleus_and_seed() -> None:
    logits = torch.log(torch.tensor([0.5, 0.3, 0.15, 0.05]))

    def drawn(**settings: float) -> list[int]:
        sampler = Sampler(Sampling(seed=1, **settings))
        return [sampler(logits).token for _ in range(2000)]

    counts = torch.bincount(torch.tensor(drawn(temperature=1.0)), minlength=4) / 2000
    assert float((counts - logits.exp()).abs().max()) < 0.04
    assert set(drawn(temperature=1.0, top_p=0.8)) == {0, 1}
    assert set(drawn(temperature=1.0, top_p=0.81)) == {0, 1, 2}
    assert set(drawn(temperature=0.01)) == set(drawn(temperature=1.0, top_p=0.1)) == {0}
    assert drawn(temperature=1.0) == drawn(temperature=1.0)


def test_reported_probabilities_are_the_models_own() -> None:
    logits = torch.tensor([[0.0, 2.0, 1.0], [3.0, 0.0, 0.0]])
    plain, reported = sample(logits, [Sampler(Sampling()), Sampler(Sampling(temperature=0.5, seed=0, logprobs=2))])
    assert plain.token == 1
    assert plain.logprob is None
    assert reported.logprob == pytest.approx(float(torch.log_softmax(logits[1], 0)[reported.token]))
    assert reported.top[0][0] == 0
    assert len(reported.top) == 2


def test_the_smallest_temperature_is_the_likeliest_token() -> None:
    logits = torch.tensor([-4.0, 3.0, 2.5])
    assert {Sampler(Sampling(temperature=1e-308, seed=seed))(logits).token for seed in range(20)} == {1}


@pytest.mark.parametrize("pieces", [1, 2, 7, 1000])
def test_stop_strings_are_found_wherever_the_text_is_cut(pieces: int) -> None:
    draw = random.Random(pieces)
    for _ in range(200):
        text = "".join(draw.choices("aab", k=40))
        stops = ["".join(draw.choices("aab", k=draw.randint(2, 9))) for _ in range(3)]
        matcher, read, found = StopMatcher(stops), 0, None
        while read < len(text) and found is None:
            found = matcher.find(text[read : read + pieces])
            if found is None:
                read += pieces
                tail = max((n for stop in stops for n in range(len(stop)) if text[:read].endswith(stop[:n])), default=0)
                assert matcher.pending == tail
        ends = [(text.find(stop) + len(stop), text.find(stop)) for stop in stops if stop in text]
        assert (None if found is None else (read + found[1], read + found[0])) == (min(ends) if ends else None)


def test_a_thousand_long_stop_strings_cost_no_more_than_the_text() -> None:
    steps = 0

    class Counted(str):
        __slots__ = ()

        def __getitem__(self, at: Any) -> str:
            nonlocal steps
            steps += 1
            return super().__getitem__(at)

    matcher = StopMatcher([Counted("a" * 500 + "b") for _ in range(10)])
    steps = 0
    assert matcher.find("a" * 5000) is None
    assert steps <= 10 * 5000 * 3


def test_penalties_biases_and_the_least_number_of_tokens() -> None:
    logits = torch.tensor([3.0, 2.5, 2.0, -9.0])

    def greedy(steps: int, ends: frozenset[int] = frozenset(), **settings: Any) -> list[int]:
        sampler = Sampler(Sampling(**settings), ends)
        return [sampler(logits).token for _ in range(steps)]

    assert greedy(4, presence_penalty=0.8) == [0, 1, 0, 0]  # once for each token, however often it came
    assert greedy(6, frequency_penalty=0.6) == [0, 1, 0, 2, 1, 0]
    assert greedy(3, bias={3: 100}) == [3, 3, 3]
    assert greedy(4, frozenset([0]), min_tokens=2) == [1, 1, 0, 0]
    assert greedy(2) == [0, 0]
