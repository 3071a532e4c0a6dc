"""The loop. One frozen backbone, a bank of prompts; each prompt is tuned as if it were alone."""

import math
from collections.abc import Callable, Iterable
from typing import Any, Protocol, runtime_checkable

from softprompt.backbones import Backbone
from softprompt.errors import OutOfMemory
from softprompt.evaluation.evaluate import mean_loss, score_examples
from softprompt.methods.bank import Bank
from softprompt.recipes import Recipe
from softprompt.runtime import distributed
from softprompt.tasks import Task
from softprompt.training.candidate import Candidate
from softprompt.training.checkpoint import take_up_random
from softprompt.training.gradients import Gradients


@runtime_checkable
class Tuned(Protocol):
    """What is seen of a candidate from outside; it may be tuned in another process."""

    @property
    def name(self) -> str: ...
    @property
    def recipe(self) -> Recipe: ...
    @property
    def task(self) -> Task: ...
    @property
    def step(self) -> int: ...
    @property
    def best(self) -> dict[str, Any] | None: ...
    @property
    def stopped(self) -> str | None: ...
    @property
    def history(self) -> list[dict[str, Any]]: ...


@runtime_checkable
class Listener(Protocol):
    """What wants to know how training goes."""

    def stepped(self, candidate: Tuned) -> None: ...
    def evaluated(self, candidate: Tuned) -> None: ...
    def ended(self, candidate: Tuned) -> None: ...


def tune(
    backbone: Backbone,
    candidates: Iterable[Candidate],
    *,
    listener: Listener | None = None,
    save: Callable[[Candidate], None] | None = None,
    ended: Callable[[Candidate], None] | None = None,
    interrupted: Callable[[], bool] = lambda: False,
    tokens_per_pass: int | None = None,
    max_parallel: int | None = None,
    stop_at_step: int | None = None,
) -> None:
    """Tune every candidate to its last step, in common batches; each ends up as it would alone.

    At most `max_parallel` are tuned at a time (all when not given): one that is done frees its place for the next,
    which
    is only then asked for. After each evaluation, when it leaves its place and when `interrupted` says so, `save` is
    called with the candidate; then `ended` with one that is done. With `stop_at_step`, candidates leave after that
    step at the latest, done or not. A candidate whose loss is not finite stops where it was (`candidate.stopped` says
    so); the others go on. A step is computed in passes of at most `tokens_per_pass` tokens, fewer when memory runs
    out; OutOfMemory, after saving, when not even one example fits.
    """
    gradients = Gradients(backbone, tokens_per_pass)
    places = _Places(candidates, max_parallel, stop_at_step)
    while live := places.filled():
        if places.anew:
            take_up_random(live)
        bank = Bank({candidate.name: candidate.prompt for candidate in live}).train()
        stop = False
        with backbone.using(bank):
            while not any(map(places.leaves, live)) and not (stop := distributed.anyone(interrupted())):
                try:
                    losses = gradients(live, range(len(live)))
                except OutOfMemory:
                    if save:
                        for candidate in live:
                            save(candidate)
                    raise
                for i, candidate in enumerate(live):
                    _step(backbone, bank, candidate, i, losses[i], listener, save)
        for candidate in live if stop else places.left():
            if save:
                save(candidate)
            if candidate.done and listener:
                listener.ended(candidate)
            if candidate.done and ended:
                ended(candidate)
        if stop:
            return


class _Places:
    """The candidates that are tuned together, and those that wait for a place."""

    def __init__(self, candidates: Iterable[Candidate], count: int | None, stop_at_step: int | None) -> None:
        self.waiting, self.count, self.stop_at_step = iter(candidates), count, stop_at_step
        self.live: list[Candidate] = []
        self.following: Candidate | None = None
        self.anew = True
        """Whether none of those to tune now has taken a step here."""

    def filled(self) -> list[Candidate]:
        """Those to tune now, every free place taken by one that waited. A baseline has all places to itself."""
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

    def left(self) -> list[Candidate]:
        """Those that are through, whose places become free."""
        through = [candidate for candidate in self.live if self.leaves(candidate)]
        self.live = [candidate for candidate in self.live if not self.leaves(candidate)]
        return through


def _alone(candidate: Candidate) -> bool:
    """Whether it changes the network for every row of a batch."""
    return candidate.prompt.kind == "network"


def _step(
    backbone: Backbone,
    bank: Bank,
    candidate: Candidate,
    index: int,
    loss: float,
    listener: Listener | None,
    save: Callable[[Candidate], None] | None,
) -> None:
    """One optimizer step with the gradients at hand, and an evaluation where one is due."""
    if not math.isfinite(loss):
        candidate.fail(f"the loss was {loss} at step {candidate.step + 1}")
        return
    candidate.update(loss)
    if listener:
        listener.stepped(candidate)
    if candidate.due:
        _evaluate(backbone, bank, candidate, index)
        if listener:
            listener.evaluated(candidate)
        if save:
            save(candidate)


def _evaluate(backbone: Backbone, bank: Bank, candidate: Candidate, index: int) -> None:
    bank.eval()
    task = candidate.task
    scores, records = score_examples(backbone, task, candidate.dev_examples(), index)
    candidate.evaluated(task.metrics[0], scores.metrics, mean_loss(records))
    bank.train()
