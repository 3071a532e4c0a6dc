"""The training loop: one frozen backbone, a bank of prompts; each prompt is trained as if it were alone."""

import math
from collections.abc import Callable, Iterable
from typing import Protocol, runtime_checkable

from softprompt.backbones import Backbone
from softprompt.errors import OutOfMemory
from softprompt.evaluation.evaluate import mean_loss, score_examples
from softprompt.methods.bank import Bank
from softprompt.recipes import Recipe
from softprompt.runtime import distributed
from softprompt.tasks import Task
from softprompt.training.candidate import Best, Candidate, HistoryEntry
from softprompt.training.checkpoint import restore_random
from softprompt.training.gradients import Gradients


@runtime_checkable
class Tuned(Protocol):
    """A candidate seen from outside; it may train in another process."""

    @property
    def name(self) -> str: ...
    @property
    def recipe(self) -> Recipe: ...
    @property
    def task(self) -> Task: ...
    @property
    def step(self) -> int: ...
    @property
    def best(self) -> Best | None: ...
    @property
    def stopped(self) -> str | None: ...
    @property
    def history(self) -> list[HistoryEntry]: ...


@runtime_checkable
class Listener(Protocol):
    """Receives the events of training."""

    def on_step(self, candidate: Tuned) -> None: ...
    def on_evaluation(self, candidate: Tuned) -> None: ...
    def on_end(self, candidate: Tuned) -> None: ...


def tune(
    backbone: Backbone,
    candidates: Iterable[Candidate],
    *,
    listener: Listener | None = None,
    on_checkpoint: Callable[[Candidate], None] | None = None,
    on_done: Callable[[Candidate], None] | None = None,
    interrupted: Callable[[], bool] = lambda: False,
    tokens_per_pass: int | None = None,
    max_parallel: int | None = None,
    stop_at_step: int | None = None,
) -> None:
    """Train every candidate to its last step, in shared batches; each ends as it would alone.

    A candidate whose loss is not finite stops where it was (`candidate.stopped` says why); the others go on.

    Args:
      backbone: The frozen model.
      candidates: Read lazily: the next is requested when a slot is free.
      listener: Told of every step, evaluation and end.
      on_checkpoint: Called after each evaluation, when a candidate leaves its slot, and on interrupt.
      on_done: Called with each candidate that is done, after `on_checkpoint`.
      interrupted: Asked before every step whether to save and return.
      tokens_per_pass: Maximum tokens of one forward and backward pass; halved when memory runs out.
      max_parallel: Candidates in memory at once; None: all.
      stop_at_step: Candidates leave at this step, finished or not; None: at their last.
    Raises:
      OutOfMemory: One example alone does not fit; everything is saved first.
    """
    gradients = Gradients(backbone, tokens_per_pass)
    slots = _Slots(candidates, max_parallel, stop_at_step)
    while live := slots.fill():
        if slots.anew:
            restore_random(live)
        bank = Bank({candidate.name: candidate.prompt for candidate in live}).train()
        stop = False
        with backbone.using(bank):
            for i, candidate in enumerate(live):
                if candidate.recipe.evaluate_at_start and not candidate.history:
                    _evaluate(backbone, bank, candidate, i, listener)
            while not any(map(slots.leaves, live)) and not (stop := distributed.anyone(interrupted())):
                try:
                    losses = gradients(live, range(len(live)))
                except OutOfMemory:
                    if on_checkpoint:
                        for candidate in live:
                            on_checkpoint(candidate)
                    raise
                for i, candidate in enumerate(live):
                    _step(backbone, bank, candidate, i, losses[i], listener, on_checkpoint)
        for candidate in live if stop else slots.release():
            if on_checkpoint:
                on_checkpoint(candidate)
            if candidate.done and listener:
                listener.on_end(candidate)
            if candidate.done and on_done:
                on_done(candidate)
        if stop:
            return


class _Slots:
    """The candidates that train together, and those that wait for a slot."""

    def __init__(self, candidates: Iterable[Candidate], count: int | None, stop_at_step: int | None) -> None:
        self.waiting, self.count, self.stop_at_step = iter(candidates), count, stop_at_step
        self.live: list[Candidate] = []
        self.following: Candidate | None = None
        self.anew = True
        """Whether none of those that train now has taken a step here."""

    def fill(self) -> list[Candidate]:
        """Fill free slots with waiting candidates and return all that train now. A baseline has all slots to itself."""
        self.anew = not self.live
        while self.count is None or len(self.live) < self.count:
            self.following = self.following or next(self.waiting, None)
            if self.following is None or (self.live and (_alone(self.following) or _alone(self.live[0]))):
                break
            self.live.append(self.following)
            self.following = None
        return self.live

    def leaves(self, candidate: Candidate) -> bool:
        return candidate.done or (self.stop_at_step is not None and candidate.step >= self.stop_at_step)

    def release(self) -> list[Candidate]:
        """Free the slots of those that are through, and return them."""
        through = [candidate for candidate in self.live if self.leaves(candidate)]
        self.live = [candidate for candidate in self.live if not self.leaves(candidate)]
        return through


def _alone(candidate: Candidate) -> bool:
    """Return whether `candidate` changes the network for every row of a batch."""
    return candidate.prompt.kind == "network"


def _step(
    backbone: Backbone,
    bank: Bank,
    candidate: Candidate,
    index: int,
    loss: float,
    listener: Listener | None,
    on_checkpoint: Callable[[Candidate], None] | None,
) -> None:
    """Take one optimizer step with the gradients at hand, and evaluate where that is due."""
    if not math.isfinite(loss):
        candidate.fail(f"the loss was {loss} at step {candidate.step + 1}")
        return
    candidate.update(loss)
    if listener:
        listener.on_step(candidate)
    if candidate.due:
        _evaluate(backbone, bank, candidate, index, listener)
        if on_checkpoint:
            on_checkpoint(candidate)


def _evaluate(backbone: Backbone, bank: Bank, candidate: Candidate, index: int, listener: Listener | None) -> None:
    bank.eval()
    task = candidate.task
    scores, records = score_examples(backbone, task, candidate.dev_examples(), index)
    candidate.record_evaluation(task.metrics[0], scores.metrics, mean_loss(records))
    bank.train()
    if listener:
        listener.on_evaluation(candidate)
