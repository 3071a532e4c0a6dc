"""MPT's source stage: one P* for several tasks, learned from their teachers. Wang et al., ICLR 2023, section 3.2.

https://arxiv.org/abs/2303.02861. With a teacher prompt for each task t, tuned before on it alone, the loss is

    L = sum_t  L_task + weight (KL(teacher || student) + MSE(student's states, teacher's states))

L_task  mean negative log-likelihood of the target tokens, as in every run
KL      of the distributions over the vocabulary, p ~ exp(z / temperature), mean over the target tokens
MSE     of the last hidden states of source and target tokens (encoder and decoder): mean over an example's
        entries, then over the examples

Each step takes the examples of some tasks: their number is drawn from 2 to all, then they are.

The three losses, weight 0.9, the states of encoder and decoder and the draw of tasks are the paper's at second hand:
neither its text nor its code could be read here. The temperature (1), the last layer's states at source and target
tokens, and means where the paper writes sums are ours.
"""

import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from softprompt.backbones import Backbone
from softprompt.backbones.batch import Observed
from softprompt.errors import OutOfMemory
from softprompt.evaluation.evaluate import mean_loss, score_examples
from softprompt.methods.bank import Bank
from softprompt.methods.prompts.multitask import Multitask, Shared
from softprompt.methods.soft_prompt import SoftPrompt
from softprompt.runs.run_card import Distillation
from softprompt.tasks import SPLITS, Example, Task
from softprompt.training.candidate import Candidate
from softprompt.training.checkpoint import restore_random
from softprompt.training.gradients import Gradients
from softprompt.training.loop import Listener

METRIC = "mean of the tasks"


class SourceStage(Candidate):
    """k tasks as one candidate: one P*, one optimizer, one best state, that of the best mean of their dev metrics.

    `members` are candidates of the method mpt, one a task, with the same recipe; `teachers` their teachers.
    """

    def __init__(self, name: str, members: Sequence[Candidate], teachers: Sequence[SoftPrompt]) -> None:
        parts = [member.prompt.prompt for member in members]
        self.shared = Shared([part for part in parts if isinstance(part, Multitask)])
        self.members, self.teachers = list(members), [teacher.requires_grad_(False) for teacher in teachers]
        origins: dict[str, object] = {"tasks": [member.task.origin for member in members]}
        names = "+".join(member.task.name for member in members)
        whole = Task(names, dict.fromkeys(SPLITS, ()), (), (METRIC,), "{text}", origins)
        super().__init__(name, SoftPrompt(self.shared), members[0].recipe, whole, lambda _: 0)

    def draw_tasks(self) -> list[int]:
        """Draw the tasks of the current step: a function of step and seed, so that a resumed run draws alike."""
        generator = torch.Generator().manual_seed(self.recipe.seed * 1_000_003 + self.step)
        count = int(torch.randint(2, len(self.members) + 1, (), generator=generator))
        return sorted(torch.randperm(len(self.members), generator=generator)[:count].tolist())

    def hand_on_best(self) -> None:
        """Restore the best state, and copy its history and score to every member."""
        self.restore_best()
        for member in self.members:
            name, metric = member.task.name, member.task.metrics[0]
            member.step, member.best, member.stopped, member.failed = self.step, self.best, self.stopped, self.failed
            member.history = [
                {"step": entry["step"], "loss": entry["losses"][name]}
                if "losses" in entry
                else {"step": entry["step"], "dev": {metric: entry["dev"][name]}}
                for entry in self.history
                if "dev" in entry or name in entry["losses"]
            ]


class Distilling(Gradients):
    """Leaves in every drawn prompt the gradient of its own loss and of what sets it apart from its teacher.

    In the bank the teacher of prompt i is prompt i + k.
    """

    def __init__(self, backbone: Backbone, spec: Distillation, limit: int | None = None) -> None:
        super().__init__(backbone, limit)
        self.spec = spec
        self.counts: dict[int, int] = {}

    def __call__(self, candidates: Sequence[Candidate], alive: Sequence[int]) -> dict[int, float]:
        self.counts = {i: len(candidates[i].next_examples()) for i in alive}
        return super().__call__(candidates, alive)

    def _run_pass(self, examples: Sequence[Example], owners: Sequence[int], weights: Sequence[float]) -> list[float]:
        k = len(self.backbone.embedding.bank) // 2
        student = self.backbone.observe(self.pose(examples, owners))
        with torch.no_grad(), self.backbone.with_dropout(False):
            teacher = self.backbone.observe(self.pose(examples, owners, [i + k for i in owners]))
        nll, kl, mse = distances(student, teacher, len(examples), self.spec.temperature)
        a_token = torch.tensor(weights, device=nll.device)
        an_example = torch.tensor([1 / self.counts[i] for i in owners], device=nll.device)
        weighted = nll * a_token
        whole = weighted + self.spec.weight * (kl * a_token + mse * an_example)
        total = whole[whole.isfinite()].sum()
        if total.requires_grad:
            (total * self.scale).backward()  # type: ignore[no-untyped-call]
        return list(whole.detach().tolist())


def distances(
    student: Observed, teacher: Observed, rows: int, temperature: float = 1.0
) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"], Float[Tensor, " b"]]:
    """Return per example: negative log-likelihood and KL in nats, summed over target tokens, and the states' MSE."""

    def sum_by(values: Tensor, owner: Tensor) -> Tensor:
        return values.new_zeros(rows).index_add(0, owner, values)

    assert student.states.shape == teacher.states.shape, "prompts of different lengths left the source different room"
    nll = -student.scores.gather(1, student.labels.unsqueeze(1)).squeeze(1)
    mine, theirs = ((one.scores / temperature).log_softmax(1) for one in (student, teacher))
    kl = (theirs.exp() * (theirs - mine)).sum(1)
    mse = (student.states - teacher.states).square().mean(1)
    tokens = sum_by(torch.ones_like(mse), student.row)
    return sum_by(nll, student.owner), sum_by(kl, student.owner), sum_by(mse, student.row) / tokens


def tune_source_stage(
    backbone: Backbone,
    stage: SourceStage,
    spec: Distillation,
    *,
    listener: Listener | None = None,
    save: Callable[[], None] = lambda: None,
    interrupted: Callable[[], bool] = lambda: False,
    tokens_per_pass: int | None = None,
) -> None:
    """Train the prompts of all tasks, to the last step, an early stop or a loss that is not finite.

    Args:
      backbone: The frozen model.
      stage: The tasks' candidates, with their teachers.
      spec: Weight and temperature of the distillation losses.
      listener: Told of every step, evaluation and end.
      save: Called after each evaluation, at the end, on interrupt, and before OutOfMemory is raised.
      interrupted: Asked before every step whether to save and return.
      tokens_per_pass: Maximum tokens of one forward and backward pass.
    """
    gradients, members = Distilling(backbone, spec, tokens_per_pass), stage.members
    bank = Bank({member.name: member.prompt for member in members})
    for member, teacher in zip(members, stage.teachers, strict=True):
        bank.add(f"teacher of {member.name}", teacher)
    restore_random([stage])
    with backbone.using(bank.train()):
        while not stage.done and not interrupted():
            for member in members:
                member.step = stage.step
            drawn = stage.draw_tasks()
            try:
                losses = gradients(members, drawn)
            except OutOfMemory:
                save()
                raise
            loss = sum(losses.values()) / len(losses)
            if math.isfinite(loss):
                stage.update(loss)
                stage.history[-1]["losses"] = {members[i].task.name: losses[i] for i in drawn}
                if listener:
                    listener.on_step(stage)
                if stage.due:
                    _evaluate(backbone, bank, stage)
                    if listener:
                        listener.on_evaluation(stage)
                    save()
            else:
                stage.fail(f"the loss was {loss} at step {stage.step + 1}")
            if stage.done and listener:
                listener.on_end(stage)
        save()


def _evaluate(backbone: Backbone, bank: Bank, stage: SourceStage) -> None:
    bank.eval()
    found, losses = {}, []
    for i, member in enumerate(stage.members):
        scores, records = score_examples(backbone, member.task, member.dev_examples(), i)
        found[member.task.name] = scores.metrics[member.task.metrics[0]]
        losses.append(mean_loss(records))
    known = [loss for loss in losses if not math.isnan(loss)]  # there is none without choices
    mean = sum(known) / len(known) if known else math.nan
    stage.record_evaluation(METRIC, {METRIC: sum(found.values()) / len(found), **found}, mean)
    bank.train()
