"""Find the words of the vocabulary that a prompt's rows lie nearest to."""

import torch
from jaxtyping import Float
from torch import Tensor

from softprompt.backbones import Backbone

CHUNK = 16_384
"""Tokens whose embeddings are compared at a time: all of them may be gigabytes."""


def nearest_words(backbone: Backbone, rows: Float[Tensor, "l d"], count: int = 5) -> list[list[tuple[str, float]]]:
    """Find, for each row, the `count` tokens of largest cosine with it, as (token, cosine), best first."""
    ids = backbone.ordinary_ids()
    unit = torch.nn.functional.normalize
    own = unit(rows.float(), dim=1)
    cosines = torch.cat(
        [own @ unit(backbone.embed(ids[at : at + CHUNK]), dim=1).T for at in range(0, len(ids), CHUNK)], dim=1
    )  # (l, v)
    top = cosines.topk(min(count, len(ids)), dim=1)
    return [
        [(str(backbone.tokenizer.decode([ids[i]])), float(c)) for c, i in zip(values, places, strict=True)]
        for values, places in zip(top.values.tolist(), top.indices.tolist(), strict=True)
    ]
