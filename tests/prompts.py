"""Soft prompts in the midst of their lives, and the embeddings they must give, put together by hand."""

import torch
from torch import Tensor

from softprompt.backbones import Backbone
from softprompt.methods.bank import Bank
from softprompt.methods.offsets.position import PositionOffset
from softprompt.methods.offsets.token_network import second_table
from softprompt.methods.registry import InitContext, get_method, make, parse_options
from softprompt.methods.soft_prompt import SoftPrompt, Text
from softprompt.tasks import Example
from tests import tiny
from tests.compare import assert_close

FAMILIES = list(tiny.MODELS)
EXAMPLES = [
    Example("where is my parcel", "late", " team :"),
    Example("the invoice is wrong how do i log in", "bad", " team :"),
    Example("hello", "good", " team :"),
]


def soft_prompt(backbone: Backbone, method: str, length: int = 5, seed: int = 0) -> SoftPrompt:
    """A soft prompt in the midst of its life: every tensor away from its start, every offset row reached."""
    found = get_method(method)
    more = {"sources": ["one", "two"]} if "sources" in found.options.model_fields else {}
    options = parse_options(found, {"length": length, **tiny.small(method), **more})
    generator = torch.Generator().manual_seed(seed)
    sources = torch.randn(2, length, backbone.d, generator=generator) if options.runs() else None
    made = make(found, options, InitContext(backbone, 24, ("good", "bad"), seed, sources))
    with torch.no_grad():
        for tensor in made.parameters():
            tensor += 0.3 * torch.randn(tensor.shape, generator=generator)
        if isinstance(made.offset, PositionOffset):
            made.offset.reached[:] = True
    return made.eval()


def by_hand(backbone: Backbone, prompt: SoftPrompt, example: Example, at: int = 0) -> Tensor:
    """The embeddings (1, l + s, d) that one example must have, put together without ids past the vocabulary.

    The prompt's rows stand behind `at` tokens of the source.
    """
    ids, _ = backbone.tokens.source_ids(example, 24)
    embeds = backbone.embed(ids)
    if prompt.kind == "input":  # nothing but the example's own tokens
        rank = torch.arange(len(ids)).unsqueeze(0)
        rows = prompt(Text(torch.tensor([ids]), embeds.unsqueeze(0), rank >= 0, rank)).prompt
        return torch.cat([embeds[None, :at], rows, embeds[None, at:]], dim=1)
    folded = prompt.fold()
    if folded.offset is not None:
        embeds = embeds + folded.offset[: len(ids)]
    if folded.network is not None:
        embeds = second_table(folded.network, embeds)
    return torch.cat([embeds[:at], folded.prompt, embeds[at:]]).unsqueeze(0)


def check_equals_embeds(backbone: Backbone, prompt: SoftPrompt, example: Example, embeds: Tensor) -> None:
    """Check the logits and the generated ids of `example` against the model's own on `embeds`."""
    extra = {"decoder_input_ids": torch.tensor([[0, 5]])} if backbone.kind == "seq2seq" else {}
    options = {"max_new_tokens": 6, "do_sample": False, "attention_mask": torch.ones(embeds.shape[:2]).long()}
    with torch.no_grad(), backbone.using(Bank({"p": prompt})):
        batch = backbone.pose([example], [0])
        with backbone.embedding.laid_out(batch.layout):
            logits = backbone.model(input_ids=batch.ids, **extra).logits
        with backbone.embedding.laid_out(batch.layout):
            ids = backbone.model.generate(input_ids=batch.ids, **options)
        expected = backbone.model(inputs_embeds=embeds, **extra).logits
        expected_ids = backbone.model.generate(inputs_embeds=embeds, **options)
    assert_close(logits, expected)
    new = ids[:, batch.ids.shape[1] :] if backbone.kind == "causal" else ids
    assert new.tolist() == expected_ids.tolist()
