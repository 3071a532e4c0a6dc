"""Each method against its paper's equations in plain numpy, and against its paper's counts."""

import hashlib
import math
import re

import numpy as np
import pytest
import torch

from softprompt.errors import BadInput, UnknownName
from softprompt.methods.folded import TokenOffset, Unfolded
from softprompt.methods.initialization import from_vocabulary
from softprompt.methods.offsets.position_codebook import PositionCodebook
from softprompt.methods.offsets.position_low_rank import PositionLowRank, solve_budget
from softprompt.methods.offsets.token_network import TokenNetwork, second_table
from softprompt.methods.prompts.codebook import Codebook, subspace
from softprompt.methods.prompts.encoder import Encoder
from softprompt.methods.prompts.low_rank import LowRank
from softprompt.methods.prompts.multitask import Multitask
from softprompt.methods.prompts.random_projection import RandomProjection, project
from softprompt.methods.prompts.residual import Residual
from softprompt.methods.prompts.routed import Routed, mean_pooled
from softprompt.methods.prompts.source_mixture import SourceMixture
from softprompt.methods.prompts.superposition import Superposition
from softprompt.methods.registry import METHODS, InitContext, get_method, make, parse_options
from softprompt.methods.soft_prompt import PromptPart, SoftPrompt, Text
from softprompt.training.request import make_recipes
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
    sources = {"sources": ["one", "two", "three"]} if "sources" in found.options.model_fields else {}
    parsed = parse_options(found, {"length": 4, **tiny.small(method), **sources, **options})
    rows = torch.randn(len(parsed.runs()), parsed.length, d, generator=torch.Generator().manual_seed(9))
    context = InitContext(FakeVocabulary(d), positions, ("yes", "no"), seed, rows if parsed.runs() else None)
    return make(found, parsed, context)


def site_of(size: float, d: int = 64) -> InitContext:
    """A place whose embedding entries have root mean square `size`."""
    vocabulary = FakeVocabulary(d)
    vocabulary.table *= size / vocabulary.table.square().mean().sqrt()
    return InitContext(vocabulary, 12)


def start(method: str, size: float, options: dict[str, object]) -> PromptPart:
    found = get_method(method)
    return parse_options(found, options).prompt(site_of(size))


def text(position: list[list[int]], d: int = tiny.D) -> Text:
    """Tokens of these ranks, each an embedding of its own."""
    rank = torch.tensor(position)
    generator = torch.Generator().manual_seed(5)
    ids = torch.randint(100, rank.shape, generator=generator)
    return Text(ids, torch.randn(*rank.shape, d, generator=generator), rank >= 0, rank)


def alone(asked: Text, row: int) -> Text:
    """One row of a batch without its padding."""
    mask = asked.mask[row]
    return Text(*(tensor[row : row + 1, mask] for tensor in asked[:4]))


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
    prompt = make(found, options, InitContext(FakeVocabulary(768), 256))
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


# ACCEPT: p_i = concat_k sum_j w_ikj c_kj, and the same by position


def quantised(weights: np.ndarray, codebook: np.ndarray) -> np.ndarray:
    rows = []
    for row in weights:
        slices = [sum(row[k, j] * codebook[k, j] for j in range(row.shape[1])) for k in range(row.shape[0])]
        rows.append(np.concatenate(slices))
    return np.array(rows)


@pytest.mark.parametrize("start", ["kaiming", "vocabulary"])
def test_accepts_rows_and_offset_equal_the_papers_equation(start: str) -> None:
    prompt = made("accept", start=start)
    disturb(prompt)
    part, offset = prompt.prompt, prompt.offset
    assert isinstance(part, Codebook)
    assert isinstance(offset, PositionCodebook)
    assert_close(part(None), quantised(part.weights.detach().numpy(), part.codebook.detach().numpy()))
    position = [-1, 0, 1, 11, 12, 40]
    rows = quantised(offset.weights.detach().numpy(), offset.codebook.detach().numpy())
    expected = [rows[i] if 0 <= i < 12 else np.zeros(tiny.D) for i in position]
    assert_close(prompt.train()(text([position])).offset[0], np.array(expected))  # type: ignore[index]


def test_accept_has_the_papers_parameters_on_t5_base_and_starts_small_and_without_an_offset() -> None:
    found = get_method("accept")
    prompt = make(found, found.options(), InitContext(FakeVocabulary(768), 256))
    assert isinstance(prompt.prompt, Codebook)
    assert isinstance(prompt.offset, PositionCodebook)
    assert prompt.prompt.codebook.shape == (24, 20, 32)
    assert prompt.offset.codebook.shape == (3, 20, 256)
    values = {name: sum(t.numel() for t in part.parameters()) for name, part in prompt.named_children()}
    assert values == {"prompt": 44_160, "offset": 30_720}
    assert prompt.trainable() == 74_880
    weights, codebook = prompt.prompt.weights, prompt.prompt.codebook
    assert weights.abs().max() <= 1 / math.sqrt(24 * 20)  # torch's kaiming_uniform_(a=sqrt 5)
    assert codebook.abs().max() <= 1 / math.sqrt(20 * 32)
    assert_close(weights.std(), 1 / math.sqrt(3 * 24 * 20), 1e-3)
    assert not prompt.offset.codebook.any()


def test_accept_can_start_as_a_mix_of_whole_vocabulary_embeddings() -> None:
    vocabulary = FakeVocabulary(64)
    prompt = made("accept", d=64, length=40, codewords=20, width=8, start="vocabulary", pool=20)
    part = prompt.prompt
    assert isinstance(part, Codebook)
    sampled = part.codebook.detach().transpose(0, 1).flatten(1)
    matches = (sampled.unsqueeze(1) == vocabulary.table[:20]).all(-1)
    assert matches.sum(0).tolist() == matches.sum(1).tolist() == [1] * 20
    ratio = part(None).norm(dim=1).mean() / vocabulary.table.norm(dim=1).mean()
    assert 0.8 < ratio < 1.25


@pytest.mark.parametrize(("d", "t"), [(768, 256), (576, 192), (512, 256), (4096, 256), (7, 7)])
def test_a_subspace_is_the_papers_or_the_next_divisor_below(d: int, t: int) -> None:
    assert subspace(d, None, 256) == t
    with pytest.raises(BadInput, match=f"does not divide {d}"):
        subspace(d, 5, 256)


# ADePT: x' = x + relu(x A + a) B + b


def token_network(network: TokenOffset, embeds: np.ndarray, kept: np.ndarray | float = 1.0) -> np.ndarray:
    down, down_bias, up, up_bias = (tensor.detach().numpy() for tensor in network)
    states = (embeds @ down + down_bias) * kept
    return np.where(states > 0, states, 0) @ up + up_bias


def test_adepts_offset_equals_the_papers_equation() -> None:
    prompt = made("adept")
    disturb(prompt)
    asked = text([[-1, 0, 1, 2], [0, 1, 2, 3]])
    assert isinstance(prompt.offset, TokenNetwork)
    expected = token_network(prompt.offset.network(), asked.embeds.numpy())
    assert_close(prompt.eval()(asked).offset, expected)
    with pytest.raises(AssertionError):
        assert_close(prompt.train()(asked).offset, expected)  # dropout


def test_adept_is_a_second_embedding_table() -> None:
    prompt = made("adept")
    disturb(prompt)
    table = FakeVocabulary(tiny.D).table
    rank = torch.arange(6).unsqueeze(0)
    asked = Text(rank + 40, table[40:46].unsqueeze(0), rank >= 0, rank)
    network = prompt.fold().network
    assert network is not None
    made_table = second_table(network, table, rows=17)
    assert made_table.shape == table.shape
    assert_close(made_table[40:46], asked.embeds[0] + prompt.eval()(asked).offset[0])  # type: ignore[index]


def test_adept_has_the_papers_parameters_and_starts_as_prompt_tuning() -> None:
    found = get_method("adept")
    prompt = make(found, found.options(), InitContext(FakeVocabulary(768), 256))
    assert prompt.trainable() == 76_051  # n d + 2 d r + r + d at n = 60, r = 19
    assert not prompt.eval()(text([[0, 1, 2]], 768)).offset.any()  # type: ignore[union-attr]
    down = prompt.offset.network().down  # type: ignore[union-attr, operator]
    assert down.abs().max() <= 1 / math.sqrt(19)
    assert_close(down.std(), 1 / math.sqrt(3 * 19), 0.01)


def test_dropout_keeps_nine_tenths_and_drops_before_the_relu() -> None:
    prompt = made("adept", rank=40)
    assert isinstance(prompt.offset, TokenNetwork)
    kept = prompt.offset._kept(text([list(range(200))]))
    assert set(kept.unique().tolist()) == {0.0, float(torch.tensor(1 / 0.9))}
    assert_close((kept > 0).float().mean(), 0.9, 0.01)


# ATTEMPT: rows = P + sum_j a_j P_j, a = softmax(max(P_j) . LayerNorm(U silu(D max(x))) / temperature)


def attempt_rows(part: SourceMixture, embeds: np.ndarray) -> np.ndarray:
    """For one input: embeds (s, d) -> (l, d)."""
    state = {name: tensor.detach().numpy() for name, tensor in part.state_dict().items()}
    states = state["down"] @ embeds.max(0)
    states = state["up"] @ (states / (1 + np.exp(-states)))
    asked = (states - states.mean()) / np.sqrt(states.var() + 1e-5) * state["norm.weight"] + state["norm.bias"]
    prompts = [*state["sources"], state["rows"]]
    scores = np.array([(rows.max(0) * asked).sum() for rows in prompts]) / state["temperature"]
    shares = np.exp(scores - scores.max()) / np.exp(scores - scores.max()).sum()
    return state["rows"] + sum(share * rows for share, rows in zip(shares, prompts, strict=True))


@pytest.mark.parametrize("temperature", [None, 3.0])
def test_attempt_equals_the_papers_equation(temperature: float | None) -> None:
    prompt = made("attempt", temperature=temperature)
    disturb(prompt)
    asked = text([[-1, -1, 0, 1], [0, 1, 2, 3]])
    assert isinstance(prompt.prompt, SourceMixture)
    found = prompt.eval()(asked).prompt
    for row in range(2):
        assert_close(found[row], attempt_rows(prompt.prompt, alone(asked, row).embeds[0].numpy()))


def test_attempt_has_the_papers_parameters_and_temperature_on_t5_base() -> None:
    found = get_method("attempt")
    options = found.options(sources="[a, b,c]")  # type: ignore[arg-type]
    assert options.runs() == ["a", "b", "c"]
    vocabulary = FakeVocabulary(768)
    vocabulary.table *= 12
    prompt = make(found, options, InitContext(vocabulary, 256, sources=torch.zeros(3, 100, 768)))
    # the target prompt, down and up without biases, LayerNorm: the source prompts are frozen
    assert prompt.trainable() == 100 * 768 + 2 * 100 * 768 + 2 * 768 == 231_936
    assert_close(prompt.state_dict()["prompt.temperature"], 2087.0, 0.01)


def test_attempt_without_source_prompts_is_refused() -> None:
    with pytest.raises(BadInput, match="sources=RUN,RUN"):
        made("attempt", sources=[])


# SMoP: rows = p_j P_j, p = softmax(R mean(x)), j = argmax p


def smop_rows(part: Routed, embeds: np.ndarray) -> np.ndarray:
    scores = part.router.detach().numpy() @ embeds.mean(0)
    shares = np.exp(scores - scores.max()) / np.exp(scores - scores.max()).sum()
    return shares.max() * part.rows.detach().numpy()[shares.argmax()]


def test_smop_equals_the_papers_equation_and_uses_more_than_one_prompt() -> None:
    prompt = made("smop", prompts=3)
    disturb(prompt)
    asked = text([[-1, -1, 0, 1], [0, 1, 2, 3], [0, 1, -1, -1], [0, -1, -1, -1]])
    assert isinstance(prompt.prompt, Routed)
    found = prompt.eval()(asked)
    assert found.penalty is None
    for row in range(4):
        assert_close(found.prompt[row], smop_rows(prompt.prompt, alone(asked, row).embeds[0].numpy()))
    assert len(set(prompt.prompt._shares(asked).argmax(1).tolist())) > 1


def test_smop_has_the_papers_parameters_and_an_orthogonal_router() -> None:
    found = get_method("smop")
    prompt = make(found, found.options(), InitContext(FakeVocabulary(768), 256))
    assert prompt.trainable() == 4 * 5 * 768 + 4 * 768 == 18_432
    assert isinstance(prompt.prompt, Routed)
    router = prompt.prompt.router.detach()
    assert_close(router @ router.T, torch.eye(4), 1e-5)


def test_smops_noise_scales_logits_and_its_penalty_is_the_authors() -> None:
    prompt = made("smop", prompts=3, noise=0.5, balance=0.01)
    disturb(prompt)
    part, asked = prompt.prompt, text([[0, 1, 2]] * 400)
    asked = asked._replace(embeds=asked.embeds[:1].expand(400, -1, -1))
    assert isinstance(part, Routed)
    logits = (part.router.detach() @ mean_pooled(asked)[0]).numpy()
    soft = prompt.train()(asked)
    shares = part._shares(asked).detach().numpy()
    ratio = np.log(shares[:, 1] / shares[:, 0])  # logit 1 - logit 0, each times 1 + 0.5 e
    assert_close(ratio.mean(), logits[1] - logits[0], 0.2)
    assert_close(ratio.std(), 0.5 * math.hypot(logits[0], logits[1]), 0.2)
    load = np.bincount(shares.argmax(1), minlength=3) / 400
    assert_close(soft.penalty, 0.01 * 3 * (load * shares.mean(0)).sum())
    assert made("smop", balance=0).train()(asked).penalty is None


@pytest.mark.parametrize("method", ["adept", "smop"])
def test_what_a_part_draws_depends_on_seed_step_and_text_alone(method: str) -> None:
    prompt = made(method, **({"dropout": 0.5} if method == "adept" else {})).train()
    disturb(prompt)
    asked = text([[-1, -1, 0, 1], [0, 1, 2, 3], [0, 1, 2, 3]])

    def read(asked: Text, step: int = 3) -> torch.Tensor:
        prompt.at_step(step)
        soft = prompt(asked)
        return soft.prompt if soft.offset is None else soft.offset

    whole = read(asked)
    torch.manual_seed(1)
    assert torch.equal(read(asked), whole)
    assert not torch.equal(read(asked, 4), whole)
    part = read(alone(asked, 0))[0]
    assert_close(part, whole[0] if method == "smop" else whole[0, asked.mask[0]])


# Residual Prompt Tuning: P + LN(W2 relu(W1 P + b1) + b2)


def residual(part: Residual, skip: bool, norm: bool) -> np.ndarray:
    p, w1, b1, w2, b2 = (t.detach().numpy() for t in (part.rows, part.w1, part.b1, part.w2, part.b2))
    made = []
    for i, row in enumerate(p):
        n = i if len(w1) > 1 else 0
        x = np.maximum(row @ w1[n] + b1[n, 0], 0) @ w2[n] + b2[n, 0]
        if norm:
            x = (x - x.mean()) / np.sqrt(x.var() + 1e-5)
            x = x * part.gain[n, 0].detach().numpy() + part.shift[n, 0].detach().numpy()
        made.append(row + x if skip else x)
    return np.array(made)


@pytest.mark.parametrize("separate", [False, True])
@pytest.mark.parametrize(("skip", "norm"), [(True, True), (False, True), (True, False)])
def test_residual_equals_the_papers_equation(skip: bool, norm: bool, separate: bool) -> None:
    prompt = made("residual", skip=skip, layer_norm=norm, separate=separate)
    disturb(prompt)
    part = prompt.prompt
    assert isinstance(part, Residual)
    assert part.w1.shape[0] == (4 if separate else 1)
    assert_close(part(None), residual(part, skip, norm))


@pytest.mark.parametrize(
    ("d", "options", "expected"),
    [
        (768, {"length": 10, "bottleneck": 128}, 206_720),
        (768, {"length": 10, "bottleneck": 400}, 624_784),
        (1024, {"length": 100, "bottleneck": 400}, 925_072),  # T5-large
        (768, {"length": 10, "bottleneck": 128, "separate": True}, 7_680 + 10 * (206_720 - 7_680)),
        (768, {"length": 10, "bottleneck": 128, "layer_norm": False}, 206_720 - 2 * 768),
    ],
)
def test_residual_has_the_papers_parameters(d: int, options: dict[str, object], expected: int) -> None:
    assert made("residual", d=d, **options).trainable() == expected


@pytest.mark.parametrize("size", [12.6, 0.12, 0.02])
def test_residual_starts_with_the_papers_ratio_of_correction_to_embeddings(size: float) -> None:
    rows = site_of(size).vocabulary.embed(range(2000))
    part = start("residual", size, {"bottleneck": 64, "length": 50})
    assert isinstance(part, Residual)
    assert_close(part.gain.detach() / rows.square().mean().sqrt(), np.full((1, 1, 64), 1 / 12.6), 0.01)
    correction = (part(None) - part.rows).detach()
    assert_close(correction.square().mean().sqrt() / size, 1 / 12.6, 0.02)
    assert torch.pdist(correction).min() > 0.1 * correction.norm(dim=1).mean(), "each row has its own"
    assert_close(start("residual", size, {"gain": 1}).gain, np.ones((1, 1, 64)))


# DPT: A B


def test_dpt_equals_the_papers_equation() -> None:
    prompt = made("dpt", length=6, prompt_rank=3)
    disturb(prompt)
    part = prompt.prompt
    assert isinstance(part, LowRank)
    a, b = part.a.detach().numpy(), part.b.detach().numpy()
    assert_close(part(None), sum(np.outer(a[:, k], b[k]) for k in range(3)))
    assert np.linalg.matrix_rank(part(None).detach().numpy()) == 3


def test_dpt_has_the_papers_8680_parameters() -> None:
    assert made("dpt", d=768, length=100, prompt_rank=10).trainable() == 8_680


def test_dpt_starts_uniform_as_the_paper_or_as_the_best_approximation_of_vocabulary_rows() -> None:
    paper = made("dpt", d=768, length=100, prompt_rank=10, start="uniform").prompt
    assert isinstance(paper, LowRank)
    for tensor in (paper.a, paper.b):
        assert 0.49 < tensor.abs().max() <= 0.5
        assert_close(tensor.std(), 1 / math.sqrt(12), 0.02)
    rows = from_vocabulary(30, FakeVocabulary(64), torch.Generator().manual_seed(0))
    ours = made("dpt", d=64, length=30, prompt_rank=7).prompt
    assert isinstance(ours, LowRank)
    values = np.linalg.svd(rows.numpy(), compute_uv=False)
    assert_close(np.linalg.norm(ours(None).detach().numpy() - rows.numpy()) ** 2, (values[7:] ** 2).sum(), 1e-4)
    assert_close(ours.a.square().mean(), 1.0)


def test_a_rank_that_a_prompt_cannot_have_is_refused() -> None:
    with pytest.raises(BadInput, match=r"prompt_rank=5: a prompt of 4 rows .* at most 4"):
        made("dpt", prompt_rank=5)


# ULPT: scale * (Z R) + shift


def test_ulpt_equals_the_papers_equation() -> None:
    prompt = made("ulpt", prompt_rank=3)
    disturb(prompt)
    part = prompt.prompt
    assert isinstance(part, RandomProjection)
    z, r = part.weights.detach().numpy(), part.projection.numpy()
    expected = [[sum(row[k] * r[k, j] for k in range(3)) for j in range(tiny.D)] for row in z]
    assert_close(part(None), np.array(expected) * part.scale.detach().numpy() + part.shift.detach().numpy())


@pytest.mark.parametrize(("rank", "expected"), [(2, 1_736), (64, 7_936), (256, 27_136)])
def test_ulpt_has_the_papers_parameters_and_stores_no_matrix(rank: int, expected: int) -> None:
    prompt = made("ulpt", d=768, length=100, prompt_rank=rank)
    assert prompt.trainable() == expected
    assert sum(tensor.numel() for tensor in prompt.state_dict().values()) == expected


def test_the_frozen_matrix_is_the_same_bits_on_any_machine() -> None:
    """The hashes were computed once; a version or a machine that gives others cannot read stored prompts."""
    found = {seed: hashlib.sha256(project(64, 768, seed).numpy().tobytes()).hexdigest()[:16] for seed in (0, 7)}
    assert found == {0: "673b33384645ab8b", 7: "d80c2e4341bead57"}
    assert project(2, 3, 0).dtype == torch.float32
    assert_close(project(2, 3, 0)[0], (2 * np.array([0.5488135, 0.71518937, 0.60276338]) - 1) * math.sqrt(6 / 5))
    matrix = project(64, 768, 0)
    assert matrix.abs().max() <= math.sqrt(6 / 832)
    assert_close(matrix.var(), 2 / 832, 1e-4)


def test_the_frozen_matrix_depends_on_its_own_seed_only() -> None:
    one, other = (made("ulpt", seed).prompt for seed in (1, 2))
    assert torch.equal(one.projection, other.projection)  # type: ignore[arg-type]
    assert not torch.equal(one.weights, other.weights)  # type: ignore[arg-type]
    third = made("ulpt", 1, projection_seed=5).prompt
    assert not torch.equal(one.projection, third.projection)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [12.6, 0.12])
def test_ulpt_starts_at_rows_of_the_embeddings_size(size: float) -> None:
    rows = start("ulpt", size, {"length": 100})(None).detach()
    assert_close(rows.square().mean().sqrt() / size, 1.0, 0.1)
    authors = start("ulpt", size, {"scale_start": 1})
    assert isinstance(authors, RandomProjection)
    assert_close(authors.scale, np.ones(64))
    assert authors.shift.abs().max() == 0


# MPT: P* o (U V)


@pytest.mark.parametrize("rank", [1, 3])
def test_mpt_equals_the_papers_equation(rank: int) -> None:
    prompt = made("mpt", prompt_rank=rank)
    assert_close(prompt.prompt(None), prompt.prompt.rows)  # type: ignore[arg-type]
    disturb(prompt)
    part = prompt.prompt
    assert isinstance(part, Multitask)
    p, u, v = (tensor.detach().numpy() for tensor in (part.rows, part.u, part.v))
    assert_close(part(None), p * sum(np.outer(u[:, k], v[k]) for k in range(rank)))


def test_mpt_has_the_papers_77668_parameters() -> None:
    assert made("mpt", d=768, length=100).trainable() == 77_668


# P-tuning v1, as PEFT's PromptEncoder


def linear(layer: torch.nn.Module, x: np.ndarray) -> np.ndarray:
    return x @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()  # type: ignore[operator, union-attr]


def lstm(module: torch.nn.LSTM, x: np.ndarray) -> np.ndarray:
    """Two layers, both directions, gates in torch's order: input, forget, cell, output."""

    def sigmoid(a: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-a))

    for layer in range(2):
        sides = []
        for side, rows in (("", x), ("_reverse", x[::-1])):
            w, u, b, c = (
                getattr(module, f"{name}_l{layer}{side}").detach().numpy()
                for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
            )
            h = cell = np.zeros(u.shape[1])
            out = []
            for row in rows:
                i, f, g, o = np.split(w @ row + b + u @ h + c, 4)
                cell = sigmoid(f) * cell + sigmoid(i) * np.tanh(g)
                h = sigmoid(o) * np.tanh(cell)
                out.append(h)
            sides.append(np.array(out if not side else out[::-1]))
        x = np.concatenate(sides, axis=1)
    return x


@pytest.mark.parametrize("encoder", ["mlp", "lstm"])
def test_p_tuning_equals_the_prompt_encoder(encoder: str) -> None:
    prompt = made("p_tuning", encoder=encoder, hidden=6)
    disturb(prompt)
    part = prompt.prompt
    assert isinstance(part, Encoder)
    x = part.inputs.detach().numpy()
    x = x if part.lstm is None else lstm(part.lstm, x)
    layers = part.layers[::2]
    assert len(layers) == (3 if encoder == "mlp" else 2)
    for layer in layers[:-1]:
        x = np.maximum(linear(layer, x), 0)
    assert_close(part(None), float(part.unit) * linear(layers[-1], x))


def test_p_tuning_has_pefts_parameters() -> None:
    def mlp(d: int, h: int, l: int = 20) -> int:  # noqa: E741
        return l * d + (d * h + h) + (h * h + h) + (h * d + d)

    assert mlp(3072, 3072) == 28_382_208  # Llama-3.2-3B: PEFT says 28.4 million
    assert made("p_tuning", d=768, length=20, hidden=None).trainable() == mlp(768, 768)
    assert made("p_tuning", d=64, length=20, hidden=32).trainable() == mlp(64, 32)
    gates = [4 * (32 * (inputs + 32) + 2 * 32) for inputs in (64, 2 * 32)]  # of one direction, by layer
    head = 64 * 64 + 64 + 64 * 64 + 64
    assert made("p_tuning", d=64, length=20, hidden=32, encoder="lstm").trainable() == 20 * 64 + 2 * sum(gates) + head


@pytest.mark.parametrize("encoder", ["mlp", "lstm"])
@pytest.mark.parametrize("size", [12.6, 0.02])
def test_p_tuning_starts_at_rows_of_the_embeddings_size(size: float, encoder: str) -> None:
    rows = start("p_tuning", size, {"encoder": encoder})(None).detach()
    assert_close(rows.square().mean().sqrt() / size, 1.0, 0.02)
    assert torch.pdist(rows).min() > 0.05 * rows.norm(dim=1).mean()
    assert float(start("p_tuning", size, {"unit": 1}).unit) == 1  # type: ignore[arg-type]


# SPoT


def test_spot_is_prompt_tuning_that_must_start_from_another_run() -> None:
    assert made("spot", d=768, length=100).trainable() == 76_800
    for name in ("spot", "spot+dept"):
        assert get_method(name).options.must_start_from
        with pytest.raises(BadInput, match=f"{re.escape(name)} starts from another run.*--start-from RUN"):
            make_recipes(["prompt_tuning", name], {}, 0)


# All methods


@pytest.mark.parametrize("method", ["attempt", "smop", "smop+dept", "attempt+adept"])
def test_rows_that_depend_on_the_input_depend_on_their_own_source_alone(method: str) -> None:
    prompt = made(method)
    disturb(prompt)
    assert prompt.kind == get_method(method).kind == "input"
    asked = text([[-1, -1, 0, 1, -1], [0, 1, 2, 3, 4], [0, -1, -1, -1, -1]])
    prompt.train()(asked)
    found = prompt.eval()(asked).prompt
    assert found.shape == (3, 4, tiny.D)
    assert not torch.allclose(found[0], found[1])
    for row in range(3):
        assert_close(found[row], prompt(alone(asked, row)).prompt[0])


@pytest.mark.parametrize("method", [*METHODS, "superpos+accept", "superpos+adept", "smop+dept"])
def test_folded_equals_unfolded(method: str) -> None:
    prompt = made(method)
    disturb(prompt)
    asked = text([[-1, 0, 1, 2, 3], [0, 1, 2, 3, 4]])
    prompt.train()(asked)
    soft = prompt.eval()(asked)
    assert get_method(method).kind == prompt.kind
    if prompt.kind == "input":
        with pytest.raises(BadInput, match="looks at its input"):
            prompt.fold()
        unfolded = prompt.deployable()
        assert isinstance(unfolded, Unfolded)
        again = made(method, seed=1).eval()
        again.load_state_dict(unfolded.tensors)
        assert_close(again(asked).prompt, soft.prompt)
        return
    folded = prompt.fold()
    assert folded.kind == prompt.kind
    assert_close(folded.prompt, soft.prompt)
    if folded.network is not None:
        expected = token_network(folded.network, asked.embeds.numpy())
        assert_close(soft.offset, expected)
    elif soft.offset is not None:
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


@pytest.mark.parametrize("method", [name for name, method in METHODS.items() if method.offset is None])
def test_every_prompt_takes_depts_offset(method: str) -> None:
    both = get_method(f"{method}+dept")
    alone, prompt, asked = made(method).eval(), made(f"{method}+dept", rank=5).eval(), text([[0, 1, 2]])
    assert prompt.kind == both.kind == ("input" if alone.kind == "input" else "prompt+position")
    assert prompt.trainable() == alone.trainable() + 5 * (12 + tiny.D)
    assert_close(prompt.prompt(asked), alone.prompt(asked))
    assert set(prompt.groups()) == set(both.rates) == set(get_method(method).rates) | {"offset"}


def test_the_ranks_of_prompt_and_offset_are_two_options() -> None:
    given = {"prompt.rank": 2, "offset.rank": 3, "length": 4}
    assert make_recipes(["dpt+dept"], given, 0)["dpt+dept"].options == {
        "prompt_rank": 2, "rank": 3, "length": 4
    }  # fmt: skip
    assert make_recipes(["dpt"], {"prompt.rank": 2}, 0)["dpt"].options == {"prompt_rank": 2}


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
        ("accept+accept", "accept has an offset of its own"),
        ("dept+smop", "dept has an offset of its own"),
        ("superpos+smop", "smop has no offset"),
    ],
)
def test_parts_that_do_not_combine_are_refused(name: str, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        get_method(name)
