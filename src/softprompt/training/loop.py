"""The loop. One frozen backbone, a bank of prompts; each prompt is tuned as if it were alone."""

import math
from collections.abc import Callable, Sequence
from typing import Protocol

from softprompt.backbones import Backbone
from softprompt.errors import OutOfMemory
from softprompt.evaluate import mean_loss, score_examples
from softprompt.soft import Bank
from softprompt.training.candidate import Candidate
from softprompt.training.gradients import Gradients


class Listener(Protocol):
    """What wants to know how training goes."""

    def stepped(self, candidate: Candidate) -> None: ...
    def evaluated(self, candidate: Candidate) -> None: ...
    def ended(self, candidate: Candidate) -> None: ...


def tune(
    backbone: Backbone,
    candidates: Sequence[Candidate],
    *,
    listener: Listener | None = None,
    save: Callable[[Candidate], None] | None = None,
    interrupted: Callable[[], bool] = lambda: False,
    tokens_per_pass: int | None = None,
) -> None:
    """Tune every candidate to its last step, in common batches; each ends up as it would alone.

    After each evaluation, at the end and when `interrupted` says so, `save` is called with the candidate. A
    candidate whose loss is not finite stops where it was (`candidate.stopped` says so); the others go on. A
    step is computed in passes of at most `tokens_per_pass` tokens, fewer when memory runs out; OutOfMemory, after
    saving, when not even one example fits.
    """
    gradients = Gradients(backbone, tokens_per_pass)
    bank = Bank({candidate.name: candidate.prompt for candidate in candidates}).train()
    with backbone.using(bank):
        while (alive := [i for i, c in enumerate(candidates) if not c.done]) and not interrupted():
            try:
                losses = gradients(candidates, alive)
            except OutOfMemory:
                if save:
                    for candidate in candidates:
                        save(candidate)
                raise
            for i in alive:
                candidate = candidates[i]
                if not math.isfinite(losses[i]):
                    candidate.fail(f"the loss was {losses[i]} at step {candidate.step + 1}")
                else:
                    candidate.update(losses[i])
                    if listener:
                        listener.stepped(candidate)
                    if candidate.due:
                        _evaluate(backbone, bank, candidate, i)
                        if listener:
                            listener.evaluated(candidate)
                        if save:
                            save(candidate)
                if candidate.done and listener:
                    listener.ended(candidate)
        if save:
            for candidate in candidates:
                save(candidate)


def _evaluate(backbone: Backbone, bank: Bank, candidate: Candidate, index: int) -> None:
    bank.eval()
    task = candidate.task
    scores, records = score_examples(backbone, task, candidate.dev_examples(), index)
    candidate.evaluated(task.metrics[0], scores.metrics, mean_loss(records))
    bank.train()
