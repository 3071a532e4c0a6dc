"""The one injection, on five families of models."""

from itertools import cycle, islice

import pytest
import torch
from torch import Tensor

from softprompt.backbones.attach import attach
from softprompt.methods.bank import Bank
from softprompt.methods.embedding import Layout
from softprompt.methods.registry import METHODS
from softprompt.tasks import Example
from tests import tiny
from tests.candidates import on_families
from tests.compare import assert_close, copied, moved
from tests.prompts import EXAMPLES, FAMILIES, by_hand, check_equals_embeds, soft_prompt

OTHERS = [family for family in FAMILIES if family != "llama"]


@pytest.mark.parametrize(("family", "method"), on_families(METHODS, OTHERS))
def test_equals_inputs_embeds_in_logits_and_generated_ids(family: str, method: str) -> None:
    backbone = tiny.backbone(family)
    prompt = soft_prompt(backbone, method)
    embeds = by_hand(backbone, prompt, EXAMPLES[1])
    check_equals_embeds(backbone, prompt, EXAMPLES[1], embeds)


@pytest.mark.parametrize(("family", "method"), on_families(METHODS, OTHERS))
def test_left_right_and_no_padding_agree(family: str, method: str) -> None:
    """Layouts built by hand: a row alone, padded on the left, and padded on the right."""
    backbone = tiny.backbone(family)
    bank = Bank({"p": soft_prompt(backbone, method)})
    source, target = backbone.tokens.source_ids(EXAMPLES[0], 24)[0], [7, 9]
    soft = bank.soft_ids(0, backbone.v)
    row = [*soft, *source] if backbone.kind == "seq2seq" else [*soft, *source, *target]
    rank = [*[-1] * len(soft), *range(len(source)), *[-1] * (len(row) - len(soft) - len(source))]

    def read(left: int, right: int) -> Tensor:
        ids = torch.tensor([[backbone.pad] * left + row + [backbone.pad] * right])
        mask = torch.tensor([[0] * left + [1] * len(row) + [0] * right])
        layout = Layout(torch.tensor([0]), torch.tensor([[-1] * left + rank + [-1] * right]))
        with torch.no_grad(), backbone.using(bank), backbone.embedding.laid_out(layout):
            if backbone.kind == "seq2seq":
                return backbone.model(
                    input_ids=ids, attention_mask=mask, decoder_input_ids=torch.tensor([[0, *target]])
                ).logits
            positions = (mask.cumsum(1) - 1).clamp(min=0)
            logits = backbone.model(input_ids=ids, attention_mask=mask, position_ids=positions).logits
            return logits[:, left : left + len(row)]

    if family != "bart":  # BART has absolute positions of its own: a padded left side moves them, by its design
        assert_close(read(4, 0), read(0, 0))
    assert_close(read(0, 4), read(0, 0))


@pytest.mark.parametrize("family", FAMILIES)
def test_mixed_batch_answers_as_each_prompt_would_alone(family: str) -> None:
    backbone = tiny.backbone(family)
    lengths = dict(zip(METHODS, cycle((5, 3, 2, 4)), strict=False))
    bank = Bank({name: soft_prompt(backbone, name, length) for name, length in lengths.items()})
    prompts = [*range(len(METHODS)), -1]
    examples = list(islice(cycle(EXAMPLES), len(prompts)))
    with backbone.using(bank):
        together = backbone.answer(examples, prompts, max_new_tokens=8)
        alone = [backbone.answer([e], [p], max_new_tokens=8)[0] for e, p in zip(examples, prompts, strict=True)]
        losses = backbone.loss(backbone.pose(examples, prompts, targets=True)).nll
        single = [
            backbone.loss(backbone.pose([e], [p], targets=True)).nll for e, p in zip(examples, prompts, strict=True)
        ]
    assert together == alone
    ranked = [Example(e.source, "good", e.cue, ("good", "bad", "very good")) for e in examples]
    assert len(set(together)) > 1, "the rows must differ, or this shows nothing"
    assert_close(losses, torch.cat(single), 1e-4)
    with backbone.using(bank):
        scores = backbone.rank(ranked, prompts)
        assert_close(scores, torch.cat([backbone.rank([e], [p]) for e, p in zip(ranked, prompts, strict=True)]), 1e-4)
    with backbone.using(Bank()):
        assert backbone.answer([examples[-1]], [-1], max_new_tokens=8) == [together[-1]]


@pytest.mark.parametrize(("family", "method"), on_families(METHODS, OTHERS))
def test_gradients_reach_every_tensor_of_the_prompt_and_none_of_the_backbone(family: str, method: str) -> None:
    backbone = tiny.backbone(family)
    bank = Bank({"p": soft_prompt(backbone, method)}).train()
    before = copied(backbone.model)
    with backbone.using(bank):
        backbone.loss(backbone.pose(EXAMPLES, [0] * 3, targets=True)).nll.sum().backward()
    for name, tensor in bank.named_parameters():
        assert tensor.grad is not None, name
        assert tensor.grad.abs().sum() > 0, name
    own = {id(tensor) for tensor in bank.parameters()}
    assert all(t.grad is None and not t.requires_grad for t in backbone.model.parameters() if id(t) not in own)
    assert moved(before, copied(backbone.model)) == set()


def test_layout_read_off_the_ids_names_each_rows_prompt_and_source() -> None:
    backbone = tiny.backbone("llama")
    bank = Bank({name: soft_prompt(backbone, name, n) for name, n in (("prompt_tuning", 2), ("dept", 3))})
    with backbone.using(bank):
        batch = backbone.pose(EXAMPLES, [1, 0, -1])
        read_off = backbone.embedding(batch.ids)
        with backbone.embedding.laid_out(batch.layout):
            laid_out = backbone.embedding(batch.ids)
    assert_close(read_off[batch.mask], laid_out[batch.mask])


def test_the_offset_is_not_added_to_targets_or_generated_tokens() -> None:
    backbone = tiny.backbone("llama")
    with torch.no_grad(), backbone.using(Bank({"p": soft_prompt(backbone, "dept")})):
        batch = backbone.pose(EXAMPLES[:1], [0], targets=True)
        with backbone.embedding.laid_out(batch.layout):
            embeds = backbone.embedding(batch.ids)
            step = backbone.embedding(torch.tensor([[7]]))
    target = backbone.tokens.target_ids(EXAMPLES[0])
    assert_close(embeds[0, -len(target) :], backbone.embed(target))
    assert_close(step[0], backbone.embed([7]))


@pytest.mark.parametrize("use_cache", [True, False])
def test_a_source_of_one_token_keeps_its_offset_in_generation_with_and_without_a_cache(use_cache: bool) -> None:
    backbone = tiny.backbone("llama")
    prompt = soft_prompt(backbone, "dept", 1)
    one = Example("hello", "good")
    with torch.no_grad(), backbone.using(Bank({"p": prompt})):
        batch = backbone.pose([one], [0])
        narrow = Layout(torch.tensor([0]), torch.tensor([[0]]))
        ids = batch.ids[:, -1:]  # the offset without the prompt's rows
        with backbone.embedding.laid_out(narrow):
            options = {"max_new_tokens": 5, "do_sample": False, "use_cache": use_cache}
            made = backbone.model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **options)
        embeds = backbone.embed(ids[0].tolist()) + prompt.fold().offset[:1]  # type: ignore[index]
        expected = backbone.model.generate(
            inputs_embeds=embeds.unsqueeze(0), attention_mask=torch.ones_like(ids), **options
        )
    assert made[:, 1:].tolist() == expected.tolist()


def test_a_layout_that_does_not_fit_the_ids_is_refused() -> None:
    backbone = tiny.backbone("llama")
    layout = Layout(torch.tensor([0]), torch.tensor([[0, 1, 2]]))
    with (
        backbone.using(Bank({"p": soft_prompt(backbone, "dept")})),
        backbone.embedding.laid_out(layout),
        pytest.raises(ValueError, match="do not fit"),
    ):
        backbone.embedding(torch.tensor([[3, 4]]))


@pytest.mark.parametrize("family", FAMILIES)
def test_attach_leaves_the_model_as_it_was(family: str) -> None:
    model = tiny.model(family)
    owner = model.get_encoder() if model.config.is_encoder_decoder else model  # type: ignore[operator, union-attr]
    table = owner.get_input_embeddings()
    before = copied(model)
    with attach(model, Bank(), tiny.PAD) as embedding:
        assert owner.get_input_embeddings() is embedding
    assert owner.get_input_embeddings() is table
    assert moved(before, copied(model)) == set()
