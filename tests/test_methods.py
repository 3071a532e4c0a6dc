"""Each method against its paper's equations in plain numpy, and against its paper's counts."""

import math

import numpy as np
import pytest
import torch

from softprompt.errors import BadInput, UnknownName
from softprompt.methods import METHODS, Site, get_method, make, parse_options
from softprompt.offsets import PositionLowRank, solve_budget
from softprompt.prompts import Superposition
from softprompt.soft import SoftPrompt, Text
from tests import tiny
from tests.compare import assert_close, copied


class FakeVocabulary:
    """A vocabulary of T5-base's size, made of noise."""

    def __init__(self, d: int, v: int = 2000) -> None:
        self.d = d
        self.table = torch.randn(v, d, generator=torch.Generator().manual_seed(0))

    def ordinary_ids(self) -> list[int]:
        return list(range(len(self.table)))

    def tokens(self, text: str) -> list[int]:
        return [len(word) for word in text.split()]

    def embed(self, ids: list[int]) -> torch.Tensor:
        return self.table[list(ids)]


def made(method: str, seed: int = 0, d: int = tiny.D, positions: int = 12, **options: object) -> SoftPrompt:
    found = get_method(method)
    given = {"length": 4, **tiny.SMALL[method], **options}
    return make(found, parse_options(found, given), Site(FakeVocabulary(d), positions, ("yes", "no"), seed))


def text(position: list[list[int]], d: int = tiny.D) -> Text:
    rank = torch.tensor(position)
    return Text(torch.zeros_like(rank), torch.zeros(*rank.shape, d), rank >= 0, rank)


def disturb(prompt: SoftPrompt) -> None:
    with torch.no_grad():
        for tensor in prompt.parameters():
            tensor += torch.randn(tensor.shape)


# DePT: H = [P_s ; E + (alpha / sqrt r) A B]


def dept_offset(a: np.ndarray, b: np.ndarray, position: list[int], alpha: float | None) -> np.ndarray:
    rank = a.shape[1]
    scale = 1.0 if alpha is None else alpha / math.sqrt(rank)
    rows = []
    for i in position:
        inside = 0 <= i < a.shape[0]
        rows.append(scale * sum(a[i, k] * b[k] for k in range(rank)) if inside else np.zeros(b.shape[1]))
    return np.array(rows)


@pytest.mark.parametrize("alpha", [8.0, None])
@pytest.mark.parametrize("method", ["dept", "superpos_dept"])
def test_dept_offset_equals_the_papers_equation(method: str, alpha: float | None) -> None:
    prompt = made(method, alpha=alpha)
    disturb(prompt)
    position = [-1, -1, 0, 1, 2, 11, 12, 40]
    found = prompt.train()(text([position])).offset
    assert found is not None
    assert isinstance(prompt.offset, PositionLowRank)
    expected = dept_offset(prompt.offset.a.detach().numpy(), prompt.offset.b.detach().numpy(), position, alpha)
    assert_close(found[0], expected)


def test_dept_starts_as_prompt_tuning_with_a_uniform_and_b_zero() -> None:
    offset = made("dept", rank=16, positions=2000).offset
    assert isinstance(offset, PositionLowRank)
    assert offset.b.abs().max() == 0
    assert offset.a.abs().max() <= 1 / 4
    assert_close(offset.a.std(), (2 / 4) / math.sqrt(12), 0.01)
    assert_close(offset.a.mean(), 0.0, 0.01)


def test_offset_rows_that_training_never_reached_are_zeroed_and_counted() -> None:
    prompt = made("dept")
    disturb(prompt)
    prompt.train()(text([[0, 1, 2, -1], [-1, 0, 1, 2]]))
    folded = prompt.fold()
    assert folded.zeroed == 12 - 3
    assert folded.offset is not None
    assert folded.offset[3:].abs().max() == 0
    assert folded.offset[:3].abs().min() > 0
    longer = prompt.eval()(text([[0, 2, 3, 11]])).offset
    assert longer is not None
    assert longer[0, 2:].abs().max() == 0, "an unreached row must not leak its random start before folding either"


@pytest.mark.parametrize(("length", "rank"), [(0, 75), (20, 60), (40, 45), (60, 30), (80, 15)])
def test_dept_has_the_papers_76800_parameters_at_every_published_pair(length: int, rank: int) -> None:
    found = get_method("dept")
    options = parse_options(found, {"length": length, "rank": rank, "positions": 256})
    prompt = make(found, options, Site(FakeVocabulary(768), 256))
    assert prompt.trainable() == 76_800
    assert sum(tensor.numel() for tensor in prompt.parameters()) == 76_800
    for given in ({"length": length}, {"rank": rank}):
        budget = solve_budget(76_800, 768, 256, **given)
        assert (budget.length, budget.rank, budget.used, budget.remainder) == (length, rank, 76_800, 0)


def test_the_budget_says_what_remains_when_it_does_not_divide() -> None:
    budget = solve_budget(51_200, 512, 256, length=20)  # T5-small: 53.3 ranks
    assert (budget.rank, budget.used, budget.remainder) == (53, 20 * 512 + 53 * 768, 256)
    budget = solve_budget(409_600, 4096, 256, rank=45)
    assert budget.length * 4096 + 45 * (4096 + 256) + budget.remainder == 409_600
    assert 0 <= budget.remainder < 4096


@pytest.mark.parametrize("given", [{}, {"length": 1, "rank": 1}, {"length": 101}, {"rank": 200}])
def test_a_budget_without_room_or_question_is_refused(given: dict[str, int]) -> None:
    with pytest.raises(BadInput):
        solve_budget(76_800, 768, 256, **given)


# SuperPos-Prompt: p_i = E_i p'_i


def superposition(books: np.ndarray, weights: np.ndarray, softmax: bool = False) -> np.ndarray:
    rows = []
    for i, row in enumerate(weights):
        mix = np.exp(row) / np.exp(row).sum() if softmax else row
        book = books if books.ndim == 2 else books[i]
        rows.append(sum(mix[j] * book[j] for j in range(len(mix))))
    return np.array(rows)


@pytest.mark.parametrize("softmax", [False, True])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("codebook", ["trained", "frozen", "delta"])
def test_superposition_equals_the_papers_equation(codebook: str, shared: bool, softmax: bool) -> None:
    prompt = made("superpos", codebook=codebook, shared=shared, softmax=softmax)
    disturb(prompt)
    part = prompt.prompt
    assert isinstance(part, Superposition)
    books = {
        "trained": lambda: part.embeddings,
        "frozen": lambda: part.sampled,
        "delta": lambda: part.sampled + part.delta,
    }[codebook]()
    expected = superposition(books.detach().numpy(), part.weights.detach().numpy(), softmax)
    assert_close(part(None), expected)


def test_every_row_starts_from_the_same_unique_sampled_vocabulary_embeddings() -> None:
    vocabulary = FakeVocabulary(tiny.D)
    part = made("superpos", sampled=128).prompt
    assert isinstance(part, Superposition)
    books = part.embeddings.detach()
    assert books.shape == (4, 128, tiny.D)
    assert torch.equal(books, books[:1].expand_as(books))
    matches = (books[0].unsqueeze(1) == vocabulary.table).all(-1)  # (128, v)
    assert matches.sum(1).tolist() == [1] * 128
    assert len(set(matches.int().argmax(1).tolist())) == 128


def test_rows_start_distinct_and_near_the_norm_of_embeddings() -> None:
    vocabulary = FakeVocabulary(64)
    rows = made("superpos", d=64, length=40, sampled=128).prompt(None).detach()
    ratio = rows.norm(dim=1).mean() / vocabulary.table.norm(dim=1).mean()
    assert 0.8 < ratio < 1.25
    assert torch.pdist(rows).min() > 0.5 * rows.norm(dim=1).mean()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, 984_320),  # the paper: a trained codebook a row, l (d m + m)
        ({"shared": True}, 99_584),
        ({"codebook": "frozen"}, 1_280),
        ({"codebook": "delta"}, 984_320),
    ],
)
def test_superpos_has_the_papers_parameters_on_t5_base(options: dict[str, object], expected: int) -> None:
    prompt = made("superpos", d=768, length=10, sampled=128, **options)
    assert prompt.trainable() == expected
    assert prompt.fold().prompt.numel() == 7_680


def test_the_codebook_never_gets_weight_decay() -> None:
    assert made("superpos").prompt.undecayed() == {"codebook"}
    assert get_method("superpos").decay == {"weights": 1e-5}


def test_the_sampling_pool_limits_the_tokens() -> None:
    vocabulary = FakeVocabulary(tiny.D)
    books = made("superpos", sampled=20, pool=20).prompt.embeddings.detach()  # type: ignore[union-attr]
    assert_close(torch.sort(books[0, :, 0])[0], torch.sort(vocabulary.table[:20, 0])[0])


# All methods


@pytest.mark.parametrize("method", METHODS)
def test_folded_equals_unfolded(method: str) -> None:
    prompt = made(method)
    disturb(prompt)
    asked = text([[-1, 0, 1, 2, 3], [0, 1, 2, 3, 4]])
    prompt.train()(asked)
    soft, folded = prompt.eval()(asked), prompt.fold()
    assert folded.kind == get_method(method).kind == prompt.kind
    assert_close(folded.prompt, soft.prompt)
    if soft.offset is not None:
        assert folded.offset is not None
        expected = folded.offset[asked.position.clamp(min=0)] * asked.mask.unsqueeze(-1)
        assert_close(soft.offset, expected)


@pytest.mark.parametrize("method", METHODS)
def test_groups_hold_every_trainable_tensor_once(method: str) -> None:
    prompt = made(method)
    grouped = [id(tensor) for tensors in prompt.groups().values() for tensor in tensors]
    assert sorted(grouped) == sorted(id(tensor) for tensor in prompt.parameters())
    assert set(prompt.groups()) == set(get_method(method).rates)


@pytest.mark.parametrize("method", METHODS)
def test_the_same_seed_gives_the_same_start_and_another_seed_another(method: str) -> None:
    one, again, other = (copied(made(method, seed)) for seed in (3, 3, 4))
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)


def test_unknown_methods_and_options_get_a_suggestion() -> None:
    with pytest.raises(UnknownName, match="Did you mean 'dept'"):
        get_method("deppt")
    with pytest.raises(UnknownName, match="Did you mean 'length'"):
        parse_options(get_method("dept"), {"lenght": 3})
    with pytest.raises(BadInput, match="rank"):
        parse_options(get_method("dept"), {"rank": 0})


def test_two_methods_combine_prompt_and_offset() -> None:
    both = get_method("superpos+dept")
    named = get_method("superpos_dept")
    assert (both.prompt, both.offset, both.kind) == (named.prompt, named.offset, named.kind)
    assert (both.rates, both.decay) == (named.rates, named.decay)
    assert set(both.options.model_fields) == set(named.options.model_fields)
    assert both.options().length == 10


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("dept+superpos", "dept has an offset of its own"),
        ("superpos+prompt_tuning", "prompt_tuning has no offset"),
        ("superpos+det", "Did you mean 'dept'"),
    ],
)
def test_parts_that_do_not_combine_are_refused(name: str, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        get_method(name)
