"""Count the values that a method trains and stores on a backbone, without the backbone's weights.

The method makes its parts as it does for a run, only that the vocabulary is a stand-in: what is counted is what
would be trained, so no formula can disagree with it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from softprompt.methods.folded import stored
from softprompt.methods.registry import InitContext, Method, Options, make


class Counts(NamedTuple):
    """Values of a soft prompt."""

    trainable: int
    stored: int
    """What an answer needs: prompt.safetensors, or method.safetensors where nothing can be folded."""


@dataclass(frozen=True)
class StandIn:
    """A vocabulary whose embeddings (d) are all ones. It has tokens for any start; no count depends on how many."""

    d: int

    def ordinary_ids(self) -> list[int]:
        return list(range(5000))

    def tokens(self, text: str) -> list[int]:
        return [0]

    def embed(self, ids: Sequence[int]) -> Tensor:
        return torch.ones(1, self.d).expand(len(ids), -1)


def count_parameters(method: Method, options: Options, *, d: int, positions: int) -> Counts:
    """Count the values `method` trains and stores on a backbone of hidden size `d`, for `positions` source tokens.

    Prompts of other runs that a method mixes are stored with it: as many as `options` name.
    """
    sources = torch.zeros(len(options.runs()), options.length, d)
    prompt = make(method, options, InitContext(StandIn(d), positions, labels=("label",), sources=sources))
    return Counts(prompt.trainable(), stored(prompt.deployable()))


def count_baseline(method: Method, options: Options, network: nn.Module) -> Counts:
    """Count the values a baseline trains and stores in `network`, which may be without weights.

    Raises BadInput where it has nothing to train.
    """
    made = make(method, options, InitContext(StandIn(0), 0, model=network))
    return Counts(made.trainable(), stored(made.deployable()))
