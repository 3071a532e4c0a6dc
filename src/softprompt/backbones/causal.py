"""Decoder-only backbones (GPT-2, Llama, Qwen, Gemma, ...).

A row is [padding][soft tokens][source][target], padded on the left, so that targets end in the last column.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor, nn

from softprompt.backbones.backbone import IGNORED, Backbone, Batch, Losses
from softprompt.embedding import Layout
from softprompt.errors import BadInput
from softprompt.tasks.task import Example


class Causal(Backbone):
    kind: Literal["causal", "seq2seq"] = "causal"

    def __init__(self, model: nn.Module, *args: Any, **settings: Any) -> None:
        super().__init__(model, *args, **settings)
        # logits_to_keep hands the head a slice, and a linear layer on a slice copies its weight once a row.
        model.get_output_embeddings().register_forward_pre_hook(lambda _, given: (given[0].contiguous(),))  # type: ignore

    def loss(self, batch: Batch) -> Losses:
        return self._losses(batch)

    def _log_probabilities(self, batch: Batch) -> Tensor:
        assert batch.labels is not None
        positions = (batch.mask.cumsum(1) - 1).clamp(min=0)
        with self.embedding.laid_out(batch.layout):
            logits = self.model(
                input_ids=batch.ids,
                attention_mask=batch.mask.long(),
                position_ids=positions,
                use_cache=False,
                logits_to_keep=batch.labels.shape[1] + 1,  # only label positions pass the head
            ).logits
        return torch.log_softmax(logits[:, :-1].float(), -1)

    def target_ids(self, example: Example) -> list[int]:
        """As every backbone, but a choice is learned as it is ranked, without the end-of-sequence token.

        A decoder-only model would begin with a log-probability of -20 or so for that token after a word of
        the template's answer, and spend its first steps on learning nothing but to stop.
        """
        if example.target not in example.choices:
            return super().target_ids(example)
        return self.choice_ids(example.choices)[example.choices.index(example.target)]

    def continuation(self, text: str) -> list[int]:
        return list(_continuation(self.tokenizer, text))

    def room(self, length: int, target: int) -> int:
        if self.context is None:
            return self.max_source
        left = self.context - length - target
        if left < 1:
            raise BadInput(
                f"{self.name} has {self.context} positions; a prompt of {length} rows and a target of {target} tokens "
                "leave none for the source. Shorten the prompt."
            )
        return left

    def _left(self) -> bool:
        return True

    def _pose(
        self, examples: Sequence[Example], prompts: Sequence[int], targets: Sequence[Sequence[int]] | None
    ) -> Batch:
        asked = targets or [()] * len(examples)
        sources, truncated = self._sources(examples, prompts, max(map(len, asked)))
        soft = [self.embedding.bank.soft_ids(i, self.v) for i in prompts]
        rows = [[*a, *b, *c] for a, b, c in zip(soft, sources, asked, strict=True)]
        ranks = [[*[-1] * len(a), *range(len(b)), *[-1] * len(c)] for a, b, c in zip(soft, sources, asked, strict=True)]
        real = self._fill([[1] * len(row) for row in rows], 0, left=True).bool()
        layout = Layout(torch.tensor(list(prompts), device=self.device), self._fill(ranks, -1, left=True))
        labels = None if targets is None else self._fill(targets, IGNORED, left=True)
        return Batch(self._fill(rows, self.pad, left=True), real, layout, labels, truncated)

    def _generated(self, made: Tensor, batch: Batch) -> Tensor:
        return made[:, batch.ids.shape[1] :]


@cache
def _continuation(tokenizer: Any, text: str) -> tuple[int, ...]:
    """Ids of " text" after other text.

    Read off behind an anchor, because some tokenizers (SentencePiece) mark the start of every text they
    are given with a space of its own.
    """
    if not text.strip():
        return ()
    anchor: list[int] = tokenizer(":", add_special_tokens=False).input_ids
    whole: list[int] = tokenizer(f": {text}", add_special_tokens=False).input_ids
    if whole[: len(anchor)] == anchor:
        return tuple(whole[len(anchor) :])
    return tuple(tokenizer(f" {text}", add_special_tokens=False).input_ids)
