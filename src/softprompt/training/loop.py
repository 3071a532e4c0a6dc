"""The loop. One frozen backbone, a bank of prompts; each prompt is tuned as if it were alone."""

import math
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from accelerate import Accelerator

from softprompt.backbones import Backbone
from softprompt.evaluate import chunks, evaluate, mean_loss, score
from softprompt.soft import Bank
from softprompt.training.candidate import Candidate

CHUNK_TOKENS = 1024


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
) -> None:
    """Tune every candidate to its last step, in common batches; each ends up as it would alone.

    After each evaluation, at the end and when `interrupted` says so, `save` is called with the candidate. A
    candidate whose loss is not finite stops where it was (`candidate.stopped` says so); the others go on.
    """
    accelerator = Accelerator(cpu=backbone.device.type == "cpu")
    bank = Bank({candidate.name: candidate.prompt for candidate in candidates}).train()
    with backbone.using(bank):
        while (alive := [i for i, c in enumerate(candidates) if not c.done]) and not interrupted():
            losses = _gradients(backbone, accelerator, candidates, alive)
            for i in alive:
                candidate = candidates[i]
                if not math.isfinite(losses[i]):
                    candidate.fail(f"the loss was {losses[i]} at step {candidate.step + 1}")
                else:
                    candidate.update(losses[i])
                    if listener:
                        listener.stepped(candidate)
                    if candidate.step % candidate.recipe.evaluate_every == 0 or candidate.done:
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


def _gradients(
    backbone: Backbone, accelerator: Accelerator, candidates: Sequence[Candidate], alive: Sequence[int]
) -> dict[int, float]:
    """Leave in every live prompt the gradient of its own mean token loss; return the losses, in nats."""
    rows = [(example, i) for i in alive for example in candidates[i].next_examples()]
    examples, owners = [example for example, _ in rows], [i for _, i in rows]
    tokens = dict.fromkeys(alive, 0)
    for example, i in rows:
        tokens[i] += len(backbone.target_ids(example))
    losses = dict.fromkeys(alive, 0.0)
    for chunk in chunks(backbone, examples, owners, CHUNK_TOKENS):
        mine = [owners[j] for j in chunk]
        nll = backbone.loss(backbone.pose([examples[j] for j in chunk], mine, targets=True)).nll
        weights = torch.tensor([1 / tokens[i] for i in mine], device=nll.device)
        for i, part in zip(mine, (nll.detach() * weights).tolist(), strict=True):
            losses[i] += part
        # Rows are independent, so a row that is not finite is left out without touching the others' gradients.
        finite = nll.isfinite()
        total = (nll[finite] * weights[finite]).sum()
        if backbone.embedding.penalty is not None:
            total = total + backbone.embedding.penalty * len(chunk) / len(rows)
        if total.requires_grad:
            accelerator.backward(total)
    return losses


def _evaluate(backbone: Backbone, bank: Bank, candidate: Candidate, index: int) -> None:
    bank.eval()
    records = evaluate(backbone, candidate.dev_examples(), index)
    candidate.evaluated(candidate.task.metrics[0], score(records, candidate.task.metrics).metrics, mean_loss(records))
    bank.train()
