"""The batch in which a backbone's sequences run: what every kind of it does, and which kind is exact for a backbone.

That is tried once, on the backbone's own weights: sequences that join and leave at different times must get the
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
from softprompt.serving.engine.causal import CausalBatch
from softprompt.serving.engine.prefix_cache import PromptCache
from softprompt.serving.engine.seq2seq import Seq2SeqBatch, Seq2SeqCohorts
from softprompt.serving.engine.sequence import Question, Ranking, ranking
from softprompt.serving.engine.uncached import RecomputedBatch

# Largest difference of scores, as a share of their spread; what a wrong batch gets wrong is of the order of 1.
TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3, torch.float16: 0.03, torch.bfloat16: 0.15}


class RunningBatch(Protocol):
    """Sequences 0, 1, ... that get a token a step."""

    def __len__(self) -> int: ...
    def tokens(self, question: Question, new: int) -> int: ...
    def room(self, question: Question) -> int | None: ...
    def join(self, questions: Sequence[Question]) -> Tensor: ...
    def step(self, tokens: Sequence[int]) -> Tensor: ...
    def leave(self, index: int) -> None: ...
    def clear(self) -> None: ...
    def score(self, questions: Sequence[Question], rankings: Sequence[Ranking]) -> list[list[float]]: ...


@torch.no_grad()
def running_batch(backbone: Backbone, cache: PromptCache) -> RunningBatch:
    """The fastest kind of batch that is exact for `backbone`. Raises BadInput for one that cannot continue texts."""
    kinds: list[Callable[[], RunningBatch]] = []
    if isinstance(backbone, Causal) and attention(backbone) == "sdpa":
        kinds = [lambda: CausalBatch(backbone, cache)]
    elif isinstance(backbone, Seq2Seq):
        kinds = [lambda: Seq2SeqBatch(backbone), lambda: Seq2SeqCohorts(backbone)]
    elif not isinstance(backbone, Causal):
        raise BadInput(f"{backbone.name} is neither a decoder-only nor an encoder-decoder model: it cannot be served.")
    if isinstance(backbone, Causal):
        backbone.share = False  # packed rows are for batches that nobody joins
    before, slow = attention(backbone), RecomputedBatch(backbone)
    told = _trial(backbone, slow)
    for kind in kinds:
        try:
            batch = kind()
            gap = _gap(_trial(backbone, batch), told)
            batch.clear()
            cache.clear()
            if gap <= TOLERANCE[backbone.dtype]:
                return batch
        except Exception:  # noqa: BLE001  # whatever a model of somebody else's does, the slow way is left
            pass
        if attention(backbone) != before:
            with quiet_loading():
                backbone.model.set_attn_implementation(before)  # type: ignore[operator]
    warnings.warn(
        f"{backbone.name} cannot keep keys and values for a batch whose sequences come and go: every step reads each "
        "sequence anew. Answers are the same, but long ones are slow.",
        stacklevel=2,
    )
    return slow


def attention(backbone: Backbone) -> str:
    found: str = backbone.model.config._attn_implementation  # type: ignore
    return found


def _gap(found: list[Tensor], told: list[Tensor]) -> float:
    """The largest difference of rows, each as a share of its own spread."""
    gaps = [
        ((a - b).norm(dim=-1) / (b - b.mean(-1, keepdim=True)).norm(dim=-1)).max()
        for a, b in zip(found, told, strict=True)
    ]
    return float(torch.stack(gaps).max())


def _trial(backbone: Backbone, batch: RunningBatch) -> list[Tensor]:
    """Log-probabilities (rows, v) of sequences in `batch` while others come and go; then those of choices."""
    ids, draw = backbone.ordinary_ids(), torch.Generator().manual_seed(0)

    def some(count: int) -> tuple[int, ...]:
        return tuple(ids[i] for i in torch.randint(len(ids), (count,), generator=draw).tolist())

    prompts = [SoftPrompt(Free(backbone.embed(some(length)))).to(backbone.device) for length in (5, 3)]
    asked = [Question(some(n), prompts[i], ("trial", i)) for n, i in ((11, 0), (4, 1), (2, 0))]
    asked.append(Question(some(7)))
    tokens = iter(some(40))
    found = [batch.join(asked[:2])]
    found += [batch.step([next(tokens) for _ in range(2)]) for _ in range(2)]
    found.append(batch.join(asked[2:]))
    found.append(batch.step([next(tokens) for _ in range(4)]))
    batch.leave(0)
    found += [batch.step([next(tokens) for _ in range(3)]) for _ in range(2)]
    batch.clear()
    choices = [[list(some(2)), list(some(1))] for _ in asked]
    scores = batch.score(asked, [ranking(c) for c in choices])
    return [*(torch.log_softmax(logits, -1).cpu() for logits in found), torch.tensor(scores).reshape(1, -1)]
