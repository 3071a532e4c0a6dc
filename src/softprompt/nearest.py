"""Which words of the vocabulary a prompt's rows lie nearest to."""

import torch
from jaxtyping import Float
from torch import Tensor

from softprompt.backbones import Backbone


def nearest_words(backbone: Backbone, rows: Float[Tensor, "l d"], count: int = 5) -> list[list[tuple[str, float]]]:
    """For each row the `count` tokens of largest cosine with it, as (token, cosine), best first."""
    ids = backbone.ordinary_ids()
    table = torch.nn.functional.normalize(backbone.embed(ids), dim=1)  # (v, d)
    cosines = torch.nn.functional.normalize(rows.float(), dim=1) @ table.T  # (l, v)
    top = cosines.topk(min(count, len(ids)), dim=1)
    return [
        [(str(backbone.tokenizer.decode([ids[i]])), float(c)) for c, i in zip(values, places, strict=True)]
        for values, places in zip(top.values.tolist(), top.indices.tolist(), strict=True)
    ]
