"""Candidate: one soft prompt in training, with its own optimizer, schedule, data order, best state and history."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TypedDict

import torch
from torch import Tensor, nn

from softprompt.backbones import Backbone
from softprompt.errors import BadInput
from softprompt.methods.registry import InitContext, get_method, make
from softprompt.methods.soft_prompt import SoftPrompt
from softprompt.recipes import Recipe
from softprompt.runs.start_from import Predecessor, StartFrom, read_sources, source_rows
from softprompt.tasks import Example, Task
from softprompt.tasks.splits import draw_at_most
from softprompt.training.adafactor import UnfactoredAdafactor
from softprompt.training.order import ExampleOrder


class Best(TypedDict):
    """The evaluation that was best on dev."""

    step: int
    metric: str
    value: float
    loss: float


class HistoryEntry(TypedDict, total=False):
    """One line of metrics.jsonl: a step with its loss and rates, or an evaluation with its dev scores."""

    step: int
    loss: float
    rates: dict[str, float]
    losses: dict[str, float]
    """Losses of a source stage, by task."""
    dev: dict[str, float]
    dev_loss: float | None


def weigh_answers(targets: Sequence[str]) -> dict[str, float]:
    """Weigh answers by the inverse of their share: n / (answers x count), as scikit-learn's "balanced"; mean 1."""
    counts = Counter(targets)
    return {target: len(targets) / (len(counts) * count) for target, count in counts.items()}


class Candidate:
    """A soft prompt in training, with everything that a separate run of it would have for itself.

    `size_of` gives the tokens of an example; it is asked only by recipes that count a step in tokens.
    """

    def __init__(
        self, name: str, prompt: SoftPrompt, recipe: Recipe, task: Task, size_of: Callable[[Example], int]
    ) -> None:
        self.name, self.prompt, self.recipe, self.task = name, prompt, recipe, task
        train = task.examples["train"]
        self.order = ExampleOrder(
            len(train), recipe.seed, recipe.batch, recipe.tokens_per_step, lambda i: size_of(train[i])
        )
        never = prompt.prompt.undecayed()
        self.optimizer = make_optimizer(
            recipe,
            [
                {
                    "name": group,
                    "params": tensors,
                    "lr": recipe.rates[group],
                    "weight_decay": 0.0 if group in never else recipe.decay[group],
                }
                for group, tensors in prompt.groups().items()
            ],
        )
        self._weights = weigh_answers([example.target for example in train]) if recipe.class_weights else None
        self.start_from: StartFrom | None = None  # the run whose tensors the prompt started as
        self.sources: list[StartFrom] = []  # the runs whose prompts the method reads
        self.learns_inputs = recipe.train_on_inputs
        self.step = 0
        self.best: Best | None = None
        self.best_state: dict[str, Tensor] = {}
        self.stale = 0  # evaluations since the best
        self.stopped: str | None = None  # why it ended before its last step
        self.failed = False  # stopped because something was not finite
        self.history: list[HistoryEntry] = []
        self.random: dict[str, Tensor] = {}  # random states where it was left, of a resumed one

    @property
    def done(self) -> bool:
        return self.stopped is not None or self.step >= self.recipe.steps

    @property
    def due(self) -> bool:
        """Whether dev is evaluated after the current step."""
        every = self.recipe.evaluate_every
        assert every != "epoch", "the recipe is not resolved"
        return self.done or self.step % every == 0

    def next_examples(self) -> list[Example]:
        train = self.task.examples["train"]
        return [train[i] for i in self.order.indices(self.step)]

    def weight(self, example: Example) -> float:
        """Return the factor on an example's loss: 1 unless the recipe weighs classes."""
        return 1.0 if self._weights is None else self._weights[example.target]

    def dev_examples(self) -> Sequence[Example]:
        """Return the dev examples that choose the checkpoint: all, or a fixed draw of `dev_limit`."""
        dev, limit = self.task.examples["dev"], self.recipe.dev_limit
        return dev if limit is None else draw_at_most(dev, limit)

    def update(self, loss: float) -> None:
        """Take one optimizer step with the gradients at hand, clipped to this prompt's own norm."""
        rates = {}
        factor = self.recipe.factor(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rates[group["name"]] = self.recipe.rates[group["name"]] * factor
        tensors = list(self.prompt.parameters())
        if self.recipe.clip is not None:
            nn.utils.clip_grad_norm_(tensors, self.recipe.clip)
        before = [tensor.detach().clone() for tensor in tensors]
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        if not all(bool(tensor.isfinite().all()) for tensor in tensors):
            with torch.no_grad():
                for tensor, good in zip(tensors, before, strict=True):
                    tensor.copy_(good)
            self.fail(f"step {self.step} made the prompt infinite or NaN")
        self.history.append({"step": self.step, "loss": loss, "rates": rates})

    def fail(self, why: str) -> None:
        """End this candidate: what it holds is good, what comes next would not be."""
        self.stopped, self.failed = why, True
        self.optimizer.zero_grad()

    def record_evaluation(self, metric: str, scores: dict[str, float], loss: float) -> None:
        """Add a dev evaluation to the history: keep the state when it is the best, stop when patience is out."""
        self.history.append({"step": self.step, "dev": scores, "dev_loss": None if math.isnan(loss) else loss})
        if self.task.choices and self.task.scoring == "ranked" and not math.isfinite(loss):
            self.fail(f"the dev loss was {loss} after step {self.step}")
            return
        value = scores[metric]
        # A tie in the metric (dev sets are small) is decided by the loss.
        if self.best is None or (value, -_last(loss)) > (self.best["value"], -_last(self.best["loss"])):
            self.best = {"step": self.step, "metric": metric, "value": value, "loss": loss}
            self.best_state = {name: tensor.detach().clone() for name, tensor in self.prompt.state_dict().items()}
            self.stale = 0
        else:
            self.stale += 1
            if self.recipe.patience is not None and self.stale >= self.recipe.patience:
                self.stopped = f"no better dev {metric} in {self.stale} evaluations"

    def restore_best(self) -> None:
        """Put the best state back into the prompt; without an evaluation, the present one stays."""
        if self.best_state:
            self.prompt.load_state_dict(self.best_state)


def make_optimizer(recipe: Recipe, groups: list[dict[str, object]]) -> torch.optim.Optimizer:
    """Make the recipe's optimizer, with a learning rate and a weight decay for each group."""
    if recipe.optimizer == "adafactor":
        return UnfactoredAdafactor(groups)
    return torch.optim.AdamW(groups, betas=recipe.betas, eps=recipe.epsilon)


def _last(loss: float) -> float:
    return math.inf if math.isnan(loss) else loss


def make_candidate(
    name: str,
    recipe: Recipe,
    backbone: Backbone,
    task: Task,
    predecessor: Predecessor | None = None,
    sources: Sequence[Predecessor] | None = None,
) -> Candidate:
    """Make a candidate with an initialized prompt.

    Args:
      name: Name of the run.
      recipe: How the prompt is trained; what it leaves open is filled in.
      backbone: Frozen model on which it is trained.
      task: Examples of the run.
      predecessor: Run whose final prompt is the start; None: the method's own initialization.
      sources: Runs whose prompts the method reads; None: those that its options name; []: a checkpoint holds them.
    Raises:
      BadInput: The prompt and the targets leave no room for the source, or nothing is trainable.
      PromptMismatch, BadArtefact: `predecessor` or a source does not fit this backbone, or is damaged.
    """
    if predecessor is not None:
        predecessor.prompt.check(backbone)
    options = recipe.parsed_options()
    check_room(options.length, backbone, task)
    if recipe.train_on_inputs:
        check_inputs(backbone)
    sources = read_sources(options) if sources is None else sources
    rows = source_rows(sources, backbone)
    if rows is None and options.runs():
        rows = torch.zeros(len(options.runs()), options.length, backbone.d)
    context = InitContext(backbone, backbone.max_source, task.choices, recipe.seed, rows, backbone.model)
    method = get_method(recipe.method)
    prompt = make(method, options, context)
    if predecessor is not None:
        predecessor.start(method, prompt)
    prompt = prompt.to(backbone.device)
    if prompt.trainable() == 0:
        raise BadInput(
            f"{recipe.method} with length {options.length} has nothing to train; give it a length of 1 or more."
        )
    resolved = recipe.resolved(backbone.scale(), set(prompt.groups()), len(task.examples["train"]))
    candidate = Candidate(name, prompt, resolved, task, lambda example: backbone.tokens.size(example, targets=True))
    candidate.start_from = None if predecessor is None else predecessor.record
    candidate.sources = [source.record for source in sources]
    return candidate


def check_inputs(backbone: Backbone) -> None:
    """Raise BadInput where `backbone` does not predict the tokens of a source from the prompt."""
    if not backbone.family.decoder_only or backbone.placement == "after_source":
        how = f"with its prompt {backbone.placement}" if backbone.family.decoder_only else backbone.family.title
        raise BadInput(
            f"train_on_inputs learns the source's tokens from the prompt in front of them, and {backbone.name} is "
            f"{how}. Leave it out."
        )


def check_room(length: int, backbone: Backbone, task: Task) -> None:
    """Raise BadInput where `backbone` cannot answer this task, or `length` rows and the targets leave no room."""
    backbone.check_example(task.examples["train"][0], task.scoring)
    different = list({(e.target, e.choices): e for e in task.examples["train"]}.values())  # MNLI has three
    backbone.tokens.read_targets(different)
    backbone.room(length, max(len(backbone.tokens.target_ids(e)) for e in different))
    if task.choices:
        backbone.tokens.choice_ids(task.choices, different[0].cue)
