"""A packed row gives the losses and gradients of the plain route, on every family, or the plain route is taken."""

import warnings
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from softprompt.backbones import Causal, load_backbone
from softprompt.backbones.batch import Batch
from softprompt.backbones.ops import attention, label_loss
from softprompt.backbones.ops.length_groups import group_lengths
from softprompt.backbones.ops.packing import pack
from softprompt.methods.bank import Bank
from softprompt.methods.offsets.position_low_rank import PositionLowRank
from softprompt.methods.prompts.free import Free
from softprompt.methods.soft_prompt import PromptPart, SoftPrompt, Text
from softprompt.tasks import Example
from tests import tiny
from tests.compare import assert_close, difference
from tests.smollm2 import needs_smollm2

PACKED = ["llama", "gpt2", "gemma3", "qwen3", "mistral", "neox"]


def causal(family: str, dtype: torch.dtype = torch.float32) -> Causal:
    backbone = tiny.backbone(family)
    assert isinstance(backbone, Causal)
    backbone.model.to(dtype)
    return backbone


def bank_of(lengths: Sequence[int], offset: bool = False) -> Bank:
    draw = torch.Generator().manual_seed(1)
    prompts = {}
    for i, length in enumerate(lengths):
        rows = torch.randn(length, tiny.D, generator=draw) * 0.3
        part = PositionLowRank(40, 2, tiny.D, generator=draw)
        part.b.data.normal_(0, 0.1, generator=draw)  # it starts at zero
        prompts[str(i)] = SoftPrompt(Free(rows), part if offset else None)
    return Bank(prompts)


def rows(sizes: Sequence[int], seed: int = 0) -> list[list[int]]:
    draw = torch.Generator().manual_seed(seed)
    return [torch.randint(3, 40, (n,), generator=draw).tolist() for n in sizes]


def posed(backbone: Causal, sources: Sequence[int], targets: Sequence[int], prompts: Sequence[int]) -> Batch:
    return backbone.lay(rows(sources), prompts, rows(targets, seed=1), (False,) * len(sources))


def both(backbone: Causal, bank: Bank, batch: Batch) -> tuple[list[Tensor], list[Tensor]]:
    """Losses, label counts and the whole gradient of both routes, the packed first."""
    found = []
    assert backbone.can_pack(batch.prompts)
    for route in (backbone.packed_losses, backbone.plain_losses):
        nll, tokens = route(batch)
        weights = torch.linspace(1, 2, len(nll))  # unequal, so that a swap of examples shows
        total = (nll * weights).sum()
        tensors = list(bank.parameters()) if total.requires_grad else []
        grads = torch.autograd.grad(total, tensors, allow_unused=True) if tensors else ()
        found.append([nll.detach(), tokens, torch.cat([g.flatten() for g in grads if g is not None] or [nll])])
    return found[0], found[1]


@needs_smollm2
@pytest.mark.smollm2
def test_smollm2_gives_the_losses_and_gradients_of_the_plain_route() -> None:
    backbone = load_backbone("smollm2-135m", dtype="float32")
    assert isinstance(backbone, Causal)
    bank = Bank({"a": SoftPrompt(Free(backbone.embed(range(1000, 1020)))), "b": SoftPrompt(Free(backbone.embed([5])))})
    texts = [
        "where is my parcel?",
        "I was charged twice for the same kettle and nobody answers",
        "hi",
        "it broke " * 30,
    ]
    asked = [Example(text, "delivery", " team:") for text in texts]
    with backbone.using(bank):
        packed, plain = both(backbone, bank, backbone.pose(asked, [0, 1, 0, -1], targets=True))
    for found, expected in zip(packed, plain, strict=True):
        assert difference(found, expected) < 1e-4


BATCHES: dict[str, tuple[Sequence[int], Sequence[int], Sequence[int]]] = {
    "ragged": ((5, 1, 9, 3, 9, 2), (1, 3, 2, 1, 4, 1), (0, 0, 0, 0, 0, 0)),
    "one example": ((7,), (2,), (0,)),
    "one example of one token": ((1,), (1,), (0,)),
    "one-token examples": ((1, 1, 1), (1, 1, 1), (0, 0, 0)),
    "equal lengths": ((4, 4, 4), (2, 2, 2), (0, 0, 0)),
    "prompts mixed, and none": ((5, 1, 9, 3, 6, 2), (1, 3, 2, 1, 4, 1), (1, 0, -1, 1, 2, 0)),
    "no prompt at all": ((5, 2), (1, 2), (-1, -1)),
    "a prompt of length zero": ((5, 2, 3), (1, 2, 1), (2, 2, 0)),
    "longer than a window and a block": ((30, 12, 33, 2, 9), (1, 3, 2, 1, 1), (0, 1, 0, 0, -1)),
}


@pytest.mark.parametrize("offset", [False, True], ids=["prompt", "prompt+position"])
@pytest.mark.parametrize("shape", BATCHES)
@pytest.mark.parametrize("family", PACKED)
def test_losses_and_gradients_are_those_of_the_plain_route(
    family: str, shape: str, offset: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "BLOCK", 8)
    backbone, bank = causal(family), bank_of((10, 4, 0), offset)
    sources, targets, prompts = BATCHES[shape]
    with backbone.using(bank):
        packed, plain = both(backbone, bank, posed(backbone, sources, targets, prompts))
    if any(p in (0, 1) for p in prompts):
        assert plain[2].abs().max() > 0, "the comparison must compare something"
    for found, expected in zip(packed, plain, strict=True):
        assert difference(found, expected) < 1e-5


@pytest.mark.parametrize("family", PACKED)
def test_a_packed_row_in_bfloat16_is_as_near_to_float32_as_the_plain_route(family: str) -> None:
    bank = bank_of((10, 4), offset=True)
    exact, rough = causal(family), causal(family, torch.bfloat16)
    sources, targets, prompts = (5, 1, 9, 3, 6, 2), (1, 3, 2, 1, 4, 1), (1, 0, -1, 1, 0, 0)
    with exact.using(bank):
        _, reference = both(exact, bank, posed(exact, sources, targets, prompts))
    with rough.using(bank):
        packed, plain = both(rough, bank, posed(rough, sources, targets, prompts))
    for found, other, right in zip(packed, plain, reference, strict=True):
        assert difference(found, right) < max(0.05, 2 * difference(other, right))


@pytest.mark.parametrize("family", ["bloom", "mamba", "gemma2"])
def test_a_backbone_that_cannot_be_packed_warns_once_and_takes_the_plain_route(family: str) -> None:
    backbone, bank = causal(family), bank_of((10, 4))
    with backbone.using(bank):
        batch = posed(backbone, (5, 1, 3), (1, 3, 2), (0, 1, 0))
        with pytest.warns(UserWarning, match="cannot compute a prompt once") as caught:
            nll = backbone.loss(batch).nll
        assert len(caught) == 1
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert not backbone.can_pack(batch.prompts)
            assert_close(backbone.loss(batch).nll, nll)
        assert_close(backbone.plain_losses(batch).nll, nll)
    assert torch.autograd.grad(nll.sum(), list(bank.parameters()))[0].abs().max() > 0


def test_a_backbone_that_packs_wrongly_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The self-check must be able to fail: here prompts vanish from the keys."""
    whole = attention._Attend.apply

    def without_prompt(q: Tensor, k: Tensor, v: Tensor, pk: Tensor, pv: Tensor, mask: Any, scale: float) -> Tensor:
        return whole(q, k, v, pk * 0, pv * 0, mask, scale)

    monkeypatch.setattr(attention._Attend, "apply", without_prompt)
    backbone, bank = causal("llama"), bank_of((10,))
    with backbone.using(bank), pytest.warns(UserWarning, match="losses differ by"):
        assert not backbone.can_pack([0, 0])


class _LooksAtInput(PromptPart):
    kind = "input"
    length = 3

    def forward(self, text: Text | None) -> Tensor:
        assert text is not None
        return text.embeds.mean(1, keepdim=True).expand(-1, 3, -1)


def test_prompts_that_look_at_their_input_and_dropout_take_the_plain_route() -> None:
    backbone = causal("llama")
    with backbone.using(Bank({"a": SoftPrompt(_LooksAtInput())})):
        assert not backbone.can_pack([0, 0])
    dropping = tiny.backbone("llama", dropout=True)
    assert isinstance(dropping, Causal)
    with dropping.using(bank_of((3,))):
        with dropping.with_dropout():
            assert not dropping.can_pack([0, 0])
        assert dropping.can_pack([0, 0]), "what is scored draws nothing"


@pytest.mark.parametrize("family", PACKED)
def test_a_settled_prompt_is_read_once_and_answers_the_same(family: str) -> None:
    backbone, bank = causal(family), bank_of((10, 4), offset=True)
    batch_of = lambda prompts: posed(backbone, (5, 1, 9, 3), (1, 3, 2, 1), prompts)  # noqa: E731
    read: list[int] = []
    inner = backbone._read_packed
    with backbone.using(bank), torch.no_grad():
        expected = [backbone.loss(batch_of(p)).nll for p in ((0, 0, 0, 0), (1, 0, -1, 1), (-1, -1, -1, -1))]
        backbone._read_packed = lambda ids, *more: (read.append(len(ids)), inner(ids, *more))[1]  # type: ignore
        with backbone.frozen_prompts():
            for prompts, nll in zip(((0, 0, 0, 0), (1, 0, -1, 1), (-1, -1, -1, -1)), expected, strict=True):
                assert_close(backbone.loss(batch_of(prompts)).nll, nll)
    text = 5 + 1 + 9 + 3 + (1 + 3 + 2 + 1) - 4
    assert read == [10, text, 4, text, text], "each prompt once, then texts alone"


@pytest.mark.parametrize("family", PACKED)
def test_a_settled_prompt_generates_the_same(family: str) -> None:
    backbone, bank = causal(family), bank_of((10, 4), offset=True)
    asked = [Example(text, "", " team :") for text in ("a red b", "my parcel is late", "hello", "a b c d e f g h")]
    seen: list[int] = []
    backbone.model.register_forward_pre_hook(
        lambda _, __, given: seen.append(given["input_ids"].shape[1]) if "input_ids" in given else None,
        with_kwargs=True,
    )
    with backbone.using(bank):
        assert backbone.can_pack([0, 1])
        for prompt in (0, 1, -1):
            expected = backbone.answer(asked, [prompt] * 4, max_new_tokens=6)
            if family != "gemma3":  # with tied embeddings this one repeats the cue, whatever it reads
                assert len(set(expected)) > 1, "the comparison must compare something"
            with backbone.frozen_prompts():
                seen.clear()
                assert backbone.answer(asked, [prompt] * 4, max_new_tokens=6) == expected
                assert backbone.answer(asked[:1], [prompt], max_new_tokens=6) == expected[:1]
            if family in ("gemma3", "mistral") or prompt < 0:
                continue  # a window slides over the cache, or there is nothing to keep
            assert seen[:2] == [10, 1], "the longest text alone, then one token at a time"
        with backbone.frozen_prompts():
            mixed = backbone.answer(asked, [0, 1, -1, 0], max_new_tokens=6)
            beams = backbone.answer(asked, [0] * 4, max_new_tokens=6, num_beams=2)
        assert mixed == backbone.answer(asked, [0, 1, -1, 0], max_new_tokens=6)
        assert beams == backbone.answer(asked, [0] * 4, max_new_tokens=6, num_beams=2)


def test_memory_of_attention_grows_with_the_examples_not_with_their_square() -> None:
    """No tensor over a packed row is as large as its square: the largest grows as the batch does."""
    largest = []
    for b in (8, 16, 32):
        backbone, bank = causal("llama"), bank_of((10,))
        with backbone.using(bank):
            batch = posed(backbone, (20,) * b, (1,) * b, (0,) * b)
            assert backbone.can_pack(batch.prompts)
            kept: list[int] = []

            def keep(tensor: Tensor, kept: list[int] = kept) -> Tensor:
                kept.append(tensor.numel())
                return tensor

            with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
                backbone.loss(batch)
        largest.append(max(kept))
    assert all(b <= 2.1 * a for a, b in pairwise(largest)), largest


def test_only_label_positions_reach_the_head() -> None:
    backbone, bank = causal("llama"), bank_of((10,))
    seen: list[int] = []
    head = backbone.model.get_output_embeddings()  # type: ignore[operator]
    with backbone.using(bank):
        batch = posed(backbone, (5, 9, 3), (1, 3, 2), (0, 0, 0))
        assert backbone.can_pack(batch.prompts)
        head.register_forward_hook(lambda _, __, logits: seen.append(logits.shape[:-1].numel()))
        backbone.loss(batch).nll.sum().backward()
    assert seen == [6]


def test_many_labels_pass_the_head_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:

    monkeypatch.setattr(label_loss, "PIECE", 2 * tiny.V)
    backbone, bank = causal("gemma3"), bank_of((10,), offset=True)
    with backbone.using(bank):
        packed, plain = both(backbone, bank, posed(backbone, (5, 9, 3), (7, 3, 12), (0, 0, 0)))
    for found, expected in zip(packed, plain, strict=True):
        assert_close(found, expected)


def test_a_row_is_every_token_once_and_no_padding() -> None:
    mask = torch.tensor([[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1], [0, 0, 0, 1, 1, 1]]).bool()
    packing = pack(mask, [1, 0, 1], [1, 2, 1], [1, 2, 0])
    # prompt 0 is read off row 1 and prompt 1 off row 0; then row 1, row 2, row 0 without their last targets
    assert packing.gather.tolist() == [6, 7, 2, 8, 9, 10, 3, 4, 16, 17]
    assert packing.position.tolist() == [0, 1, 0, 2, 3, 4, 1, 2, 1, 2]
    assert packing.prompts == 3
    assert packing.predicting.tolist() == [7, 4, 5]
    assert packing.owner.tolist() == [0, 1, 1]


@pytest.mark.parametrize("seed", range(5))
def test_a_cut_is_the_cheapest_there_is(seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 30, (9,), generator=draw).tolist()

    def cost(g: int, s: int) -> float:
        return g * s + 20

    def cheapest(at: int) -> float:
        if at == len(lengths):
            return 0
        return min(
            cost(end - at, max(lengths[at:end])) + cheapest(end)
            for end in range(at + 1, len(lengths) + 1)
            if end == at + 1 or (end - at) * max(lengths[at:end]) <= 60
        )

    runs = list(group_lengths(lengths, cost, lambda g, s: g * s <= 60))
    assert [i for a, b in runs for i in range(a, b)] == list(range(9))
    assert sum(cost(b - a, max(lengths[a:b])) for a, b in runs) == cheapest(0)
