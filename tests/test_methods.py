"""Each method against its paper's equations in plain numpy, and against its paper's counts."""

import math

import numpy as np
import pytest
import torch

from softprompt.errors import BadInput, UnknownName
from softprompt.methods import METHODS, Site, get_method, make, parse_options
from softprompt.offsets import PositionCodebook, PositionLowRank, TokenNetwork, second_table, solve_budget
from softprompt.prompts import Codebook, Routed, SourceMixture, Superposition
from softprompt.prompts.codebook import subspace
from softprompt.prompts.routed import mean_pooled
from softprompt.soft import Network, SoftPrompt, Text, Unfolded
from tests import tiny
from tests.compare import assert_close, copied

SMALL = {
    "prompt_tuning": {},
    "dept": {"rank": 3},
    "superpos": {"sampled": 8},
    "superpos_dept": {"sampled": 8, "rank": 3},
    "accept": {"width": 4, "codewords": 3, "offset_codewords": 3},
    "adept": {"rank": 3},
    "attempt": {"width": 5, "sources": ["one", "two", "three"]},
    "smop": {"prompts": 3},
}


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
    given = {"length": 4, **SMALL.get(method, {}), **options}
    parsed = parse_options(found, given)
    rows = torch.randn(len(parsed.runs()), parsed.length, d, generator=torch.Generator().manual_seed(9))
    site = Site(FakeVocabulary(d), positions, ("yes", "no"), seed, rows if parsed.runs() else None)
    return make(found, parsed, site)


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
    prompt = make(found, found.options(), Site(FakeVocabulary(768), 256))
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


def token_network(network: Network, embeds: np.ndarray, kept: np.ndarray | float = 1.0) -> np.ndarray:
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
    prompt = make(found, found.options(), Site(FakeVocabulary(768), 256))
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
    prompt = make(found, options, Site(vocabulary, 256, sources=torch.zeros(3, 100, 768)))
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
    prompt = made("smop")
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
    prompt = make(found, found.options(), Site(FakeVocabulary(768), 256))
    assert prompt.trainable() == 4 * 5 * 768 + 4 * 768 == 18_432
    assert isinstance(prompt.prompt, Routed)
    router = prompt.prompt.router.detach()
    assert_close(router @ router.T, torch.eye(4), 1e-5)


def test_smops_noise_scales_logits_and_its_penalty_is_the_authors() -> None:
    prompt = made("smop", noise=0.5, balance=0.01)
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


# All methods


@pytest.mark.parametrize("method", ["attempt", "smop", "smop+dept", "attempt+adept"])
def test_rows_that_depend_on_the_input_depend_on_their_own_source_alone(method: str) -> None:
    prompt = made(method, **({"sources": ["one"]} if "attempt" in method else {}))
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
