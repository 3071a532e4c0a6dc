"""Run a batch without a cache: every step reads each sequence anew.

For backbones whose keys and values cannot be kept in slots (ALiBi, a recurrence, capped scores). Slow, and right for
any backbone.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from softprompt.backbones import Backbone
from softprompt.backbones.ops.exact_head import exact_head
from softprompt.serving.engine.batching import Batching
from softprompt.serving.engine.ranking import LOGITS, ChoiceScores, Ranking, Scoring, in_runs
from softprompt.serving.engine.sequence import Question, lay


class UncachedBatch:
    """Run sequences of any backbone that continues texts."""

    def __init__(self, backbone: Backbone, batching: Batching) -> None:
        self.backbone, self.batching = backbone, batching
        self._rows: list[tuple[Question, list[int]]] = []

    def __len__(self) -> int:
        return len(self._rows)

    def tokens(self, question: Question, new: int) -> int:
        return question.length + len(question.source) + new

    def room(self, question: Question) -> int | None:
        used = self.tokens(question, 0) if self.backbone.family.decoder_only else 1
        return None if self.backbone.context is None else self.backbone.context - used

    def join(self, questions: Sequence[Question]) -> Tensor:
        rows: list[tuple[Question, list[int]]] = [(question, []) for question in questions]
        logits = self._next(rows)
        self._rows += rows
        return logits

    def step(self, tokens: Sequence[int]) -> Tensor:
        for (_, generated), token in zip(self._rows, tokens, strict=True):
            generated.append(token)
        return self._next(self._rows)

    def leave(self, index: int) -> None:
        self._rows[index] = self._rows[-1]
        self._rows.pop()

    def clear(self) -> None:
        self._rows = []

    def score(self, questions: Sequence[Question], rankings: Sequence[Ranking]) -> Scoring:
        scores = ChoiceScores(rankings)
        rows = [(i, row, target) for i, one in enumerate(rankings) for row, target in enumerate(one.targets)]
        sizes = [(self.tokens(questions[i], len(target)), len(target)) for i, _, target in rows]
        for run in in_runs(sizes, (self.batching.pass_tokens, LOGITS / self.backbone.v)):
            if run.start:
                yield
            group = rows[run]
            with exact_head(self.backbone.model):
                own = self._scores([(questions[i], target) for i, _, target in group])
            picks = [(i, scores.picks(i, row, column)) for i, row, target in group for column in range(len(target))]
            scores.add(picks, torch.cat(own))
        return scores.found

    def _next(self, rows: Sequence[tuple[Question, list[int]]]) -> Tensor:
        # The last target token stands for the one that is wanted: which it is does not matter.
        padded = [(question, [*generated, self.backbone.pad]) for question, generated in rows]
        return torch.stack([own[-1] for own in self._scores(padded)])

    def _scores(self, rows: Sequence[tuple[Question, Sequence[int]]]) -> list[Tensor]:
        """Compute, for each row, log-probabilities (target tokens, v) of all tokens that could stand in its target."""
        backbone, sizes = self.backbone, [len(target) for _, target in rows]
        bank, batch = lay(backbone, [question for question, _ in rows], [target for _, target in rows])
        with backbone.using(bank):
            scores = backbone.log_probabilities(batch)  # (b, t, v)
        left = backbone.labels_on_right()
        return [own[-size:] if left else own[:size] for own, size in zip(scores, sizes, strict=True)]
