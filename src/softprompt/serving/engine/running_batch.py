"""Choose the kind of running batch that is exact for a backbone.

It is tried once, on the backbone's own weights: sequences that join and leave at different times must get the
log-probabilities that they get alone.
"""

import warnings
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from softprompt.backbones import Backbone, Causal, Seq2Seq
from softprompt.errors import BadInput
from softprompt.methods.prompts.free import Free
from softprompt.methods.soft_prompt import SoftPrompt
from softprompt.runtime.logging import quiet_loading
from softprompt.serving.engine.batching import Batching
from softprompt.serving.engine.causal import CausalBatch
from softprompt.serving.engine.prefix_cache import PromptCache
from softprompt.serving.engine.ranking import Ranking, Scoring, finish, plan_ranking
from softprompt.serving.engine.seq2seq import Seq2SeqBatch, Seq2SeqCohorts
from softprompt.serving.engine.sequence import Question
from softprompt.serving.engine.uncached import UncachedBatch

# Largest difference of scores, as a share of their spread; what a wrong batch gets wrong is of the order of 1.
TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3, torch.float16: 0.03, torch.bfloat16: 0.15}


class RunningBatch(Protocol):
    """Sequences 0, 1, ... that get a token a step."""

    def __len__(self) -> int: ...

    def tokens(self, question: Question, new: int) -> int:
        """Count the columns that a sequence takes in the end."""

    def room(self, question: Question) -> int | None:
        """Return the most tokens that can follow a source; None: no limit."""

    def join(self, questions: Sequence[Question]) -> Tensor:
        """Add sequences after those there are; return the logits (g, v) of their first tokens, in float32."""

    def step(self, tokens: Sequence[int]) -> Tensor:
        """Give each sequence its next token; return the logits (b, v) of the ones after, in float32."""

    def leave(self, index: int) -> None:
        """Remove sequence `index`; the last one takes its place."""

    def clear(self) -> None:
        """Remove all sequences and give their memory back."""

    def score(self, questions: Sequence[Question], rankings: Sequence[Ranking]) -> Scoring:
        """Compute the log-probability of each choice of each question, in nats; it pauses between passes."""


@torch.no_grad()
def make_running_batch(backbone: Backbone, cache: PromptCache, batching: Batching | None = None) -> RunningBatch:
    """Make the fastest exact kind of batch for `backbone`. Raises BadInput for one that cannot continue texts."""
    batching = batching or Batching.on(backbone.device)
    kinds: list[Callable[[], RunningBatch]] = []
    if isinstance(backbone, Causal) and attention_of(backbone) == "sdpa":
        kinds = [lambda: CausalBatch(backbone, cache, batching)]
    elif isinstance(backbone, Seq2Seq):
        kinds = [lambda: Seq2SeqBatch(backbone, batching), lambda: Seq2SeqCohorts(backbone, batching)]
    elif not backbone.family.generates:
        raise BadInput(f"{backbone.name} is {backbone.family.title}: it generates nothing, so it cannot be served.")
    if isinstance(backbone, Causal):
        backbone.share = False  # packed rows are for batches that no sequence joins
    before, slow = attention_of(backbone), UncachedBatch(backbone, batching)
    expected = _try(backbone, slow)
    for kind in kinds:
        try:
            batch = kind()
            gap = _gap(_try(backbone, batch), expected)
            batch.clear()
            cache.clear()
            if gap <= TOLERANCE[backbone.dtype]:
                return batch
        except Exception:  # noqa: BLE001  # whatever an unknown model raises, the slow batch is left
            pass
        if attention_of(backbone) != before:
            with quiet_loading():
                backbone.model.set_attn_implementation(before)  # type: ignore[operator]
    warnings.warn(
        f"{backbone.name} cannot keep keys and values for a batch whose sequences come and go: every step reads each "
        "sequence anew. Answers are the same, but long ones are slow.",
        stacklevel=2,
    )
    return slow


def attention_of(backbone: Backbone) -> str:
    """Name the attention that a model computes."""
    # transformers has no public way to read it (5.23.0); without it a model that only `eager` computes exactly would be
    # given slots, which need SDPA.
    found: str = backbone.model.config._attn_implementation  # type: ignore[union-attr, assignment]
    return found


def _gap(found: list[Tensor], expected: list[Tensor]) -> float:
    """Measure the largest difference of rows, each as a share of its own spread."""
    gaps = [
        ((a - b).norm(dim=-1) / (b - b.mean(-1, keepdim=True)).norm(dim=-1)).max()
        for a, b in zip(found, expected, strict=True)
    ]
    return float(torch.stack(gaps).max())


def _try(backbone: Backbone, batch: RunningBatch) -> list[Tensor]:
    """Compute log-probabilities (rows, v) in `batch` while sequences come and go; then those of choices."""
    ids, generator = backbone.ordinary_ids(), torch.Generator().manual_seed(0)

    def draw_ids(count: int) -> tuple[int, ...]:
        return tuple(ids[i] for i in torch.randint(len(ids), (count,), generator=generator).tolist())

    prompts = [SoftPrompt(Free(backbone.embed(draw_ids(length)))).to(backbone.device) for length in (5, 3)]
    questions = [Question(draw_ids(n), prompts[i], ("trial", i)) for n, i in ((11, 0), (4, 1), (2, 0))]
    questions.append(Question(draw_ids(7)))
    tokens = iter(draw_ids(40))
    found = [batch.join(questions[:2])]
    found += [batch.step([next(tokens) for _ in range(2)]) for _ in range(2)]
    found.append(batch.join(questions[2:]))
    found.append(batch.step([next(tokens) for _ in range(4)]))
    batch.leave(0)
    found += [batch.step([next(tokens) for _ in range(3)]) for _ in range(2)]
    batch.clear()
    choices = [[list(draw_ids(2)), list(draw_ids(1))] for _ in questions]
    scores = finish(batch.score(questions, [plan_ranking(one) for one in choices]))
    return [*(torch.log_softmax(logits, -1).cpu() for logits in found), torch.tensor(scores).reshape(1, -1)]
