"""Let generation options that read ids (repetition penalty, bad words, ...) see soft ids past the vocabulary.

Repetition penalty, no-repeat n-grams, bad words and the like look ids up in the scores. They are given
scores with extra columns for the soft ids (and one for padding) and cut the columns off afterwards: soft
tokens are then ids like others, which can never be generated, and padding, often the id of
end-of-sequence, counts as nothing.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers import LogitsProcessor, LogitsProcessorList


class _WithSoftIds(LogitsProcessor):  # type: ignore[misc]
    """Applies `processors` to scores (b, v) as if the vocabulary held all ids up to `nothing`, the padding's."""

    def __init__(self, processors: LogitsProcessorList, padding: Tensor | None, nothing: int) -> None:
        self.processors, self.padding, self.nothing = processors, padding, nothing

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        v = scores.shape[1]
        if self.padding is not None:
            input_ids = _hide(input_ids, self.padding, self.nothing)
        wide = torch.cat([scores, scores.new_full((len(scores), self.nothing + 1 - v), -torch.inf)], dim=1)
        processed: Tensor = self.processors(input_ids, wide)
        return processed[:, :v]


def _hide(ids: Tensor, padding: Tensor, nothing: int) -> Tensor:
    """Put the id `nothing` where `padding` (b, n) says so, in ids of (b * beams, at least n)."""
    beams = ids.shape[0] // padding.shape[0]
    over = torch.zeros_like(ids, dtype=torch.bool)
    over[:, : padding.shape[1]] = padding.repeat_interleave(beams, 0)
    return ids.masked_fill(over, nothing)


@contextmanager
def reads_soft_ids(model: nn.Module, padding: Tensor, nothing: int) -> Iterator[None]:
    """Let `model.generate` inside the block apply its options to rows with soft ids and `padding` (b, n).

    `nothing` is an id past the vocabulary and past all soft ids.
    """
    # transformers 5.23.0 has no public way to wrap the processors that it builds itself, so the builder is replaced on
    # this one object. Without it, an option that looks a soft id up in the scores raises an index error.
    build: Callable[..., LogitsProcessorList] = model._get_logits_processor  # type: ignore[assignment]
    decoder_only = not model.config.is_encoder_decoder  # type: ignore[union-attr]

    def wrapped(*args: object, **kwargs: object) -> LogitsProcessorList:
        encoded = kwargs.get("encoder_input_ids")
        if not decoder_only and isinstance(encoded, Tensor):
            kwargs["encoder_input_ids"] = encoded.masked_fill(padding, nothing)
        processors = build(*args, **kwargs)
        whole = _WithSoftIds(processors, padding if decoder_only else None, nothing)
        return LogitsProcessorList([whole] if processors else [])

    model._get_logits_processor = wrapped  # type: ignore[assignment]
    try:
        yield
    finally:
        del model._get_logits_processor
