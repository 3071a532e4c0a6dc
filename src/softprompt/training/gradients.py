"""Gradients of one step, accumulated over as many passes as memory needs; how a step is cut does not change them.

How many processes share it does not either: weights are those of the whole step, gradients are summed before use.
"""

import warnings
from collections.abc import Sequence

import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from torch import Tensor, nn

from softprompt.backbones import Backbone, passes
from softprompt.backbones.batch import Batch, learn_inputs
from softprompt.errors import OutOfMemory
from softprompt.methods.embedding import IGNORED
from softprompt.runtime import distributed
from softprompt.tasks import Example
from softprompt.training.candidate import Candidate

HALF_SCALE = 1024.0  # float16 cannot hold gradients below 6e-8, so they are computed this much larger


def pass_tokens(device: torch.device) -> int:
    """Return the default maximum of tokens of one forward and backward pass on `device`."""
    return 2_048 if device.type == "cpu" else 16_384


class Gradients:
    """Computes for every live prompt the gradient of its own mean token loss, over as many passes as memory needs.

    `limit` is the most tokens (padding and prompt rows included) of one pass through the network. When a
    pass does not fit in memory the limit is halved, and stays so; nothing of the failed pass is kept.
    """

    def __init__(self, backbone: Backbone, limit: int | None = None) -> None:
        self.backbone = backbone
        self.limit = limit or pass_tokens(backbone.device)
        self.scale = HALF_SCALE if backbone.dtype is torch.float16 else 1.0
        self._on_inputs: set[int] = set()
        """Candidates of this step that learn their sources' tokens, too."""

    def __call__(self, candidates: Sequence[Candidate], alive: Sequence[int]) -> dict[int, float]:
        """Take the next step's examples of `candidates[i]` for i in `alive`; return their losses, in nats."""
        with self.backbone.with_dropout():
            return self._step(candidates, alive)

    def _step(self, candidates: Sequence[Candidate], alive: Sequence[int]) -> dict[int, float]:
        for i in alive:
            candidates[i].prompt.at_step(candidates[i].step)
        rows = [(example, i) for i in alive for example in candidates[i].next_examples()]
        examples, owners = [example for example, _ in rows], [i for _, i in rows]
        self._on_inputs = {i for i in alive if candidates[i].learns_inputs}
        tokens = dict.fromkeys(alive, 0)
        for i, count in zip(owners, self._count_labels(examples, owners), strict=True):
            tokens[i] += count
        weights = [candidates[i].weight(example) / tokens[i] for example, i in rows]
        tensors = list(dict.fromkeys(t for i in alive for t in candidates[i].prompt.parameters()))  # some may be shared
        while True:
            losses = distributed.total(self._run_share(examples, owners, weights, tensors))
            if distributed.is_first():  # for all: it needs every example, and the embeddings alone
                self._add_penalties(examples, owners)
            distributed.sum_gradients(tensors)
            distributed.join_flags(
                flag for i in alive for flag in candidates[i].prompt.buffers() if flag.dtype is torch.bool
            )
            if self.scale == 1.0:
                return losses
            finite = [i for i in alive if abs(losses[i]) < float("inf")]
            if self._unscale(tensors, [t for i in finite for t in candidates[i].prompt.parameters()]):
                return losses

    def pose(self, examples: Sequence[Example], owners: Sequence[int], prompts: Sequence[int] | None = None) -> Batch:
        """Lay out examples with what their owners learn, row i with prompt `prompts[i]`; else with their owners'."""
        batch = self.backbone.pose(examples, owners if prompts is None else prompts, targets=True)
        return learn_inputs(batch, [i in self._on_inputs for i in owners]) if self._on_inputs else batch

    def _count_labels(self, examples: Sequence[Example], owners: Sequence[int]) -> list[int]:
        """Count the tokens that each example teaches."""
        if not self._on_inputs:
            return [len(self.backbone.tokens.target_ids(example)) for example in examples]
        labels = self.pose(examples, owners).labels
        assert labels is not None
        counted: list[int] = (labels != IGNORED).sum(1).tolist()
        return counted

    def _run_share(
        self, examples: Sequence[Example], owners: Sequence[int], weights: Sequence[float], tensors: list[nn.Parameter]
    ) -> dict[int, float]:
        """Compute this process's part of a step. Raises OutOfMemory in all processes where one of them runs out."""
        try:
            losses, why = self._accumulate(examples, owners, weights, tensors), ""
        except OutOfMemory as error:
            if self.backbone.sharded:  # the others wait inside a layer: the launcher ends them
                raise
            losses, why = dict.fromkeys(owners, 0.0), str(error)
        if distributed.anyone(bool(why)):
            raise OutOfMemory(next(filter(None, distributed.gather(why))))
        return losses

    def _accumulate(
        self, examples: Sequence[Example], owners: Sequence[int], weights: Sequence[float], tensors: list[nn.Parameter]
    ) -> dict[int, float]:
        """Add up all passes of this process's share of a step; returns its weighted losses by owner."""
        losses = dict.fromkeys(owners, 0.0)
        left = distributed.share(len(examples), lambda i: self.backbone.tokens.size(examples[i], targets=True))
        if self.backbone.sharded:
            self._keep_pace(examples, owners, left)
        while left:
            groups = passes(
                self.backbone, [examples[i] for i in left], [owners[i] for i in left], self.limit, targets=True
            )
            done: set[int] = set()
            for group in groups:
                rows = [left[i] for i in group]
                before = [None if tensor.grad is None else tensor.grad.clone() for tensor in tensors]
                mine = [examples[i] for i in rows], [owners[i] for i in rows], [weights[i] for i in rows]
                try:
                    parts = self._run_pass(*mine)
                except RuntimeError as error:
                    if not should_reduce_batch_size(error):
                        raise
                    for tensor, grad in zip(tensors, before, strict=True):
                        tensor.grad = grad
                    self._halve(mine[0], error)
                    break
                for i, part in zip(rows, parts, strict=True):
                    losses[owners[i]] += part
                done.update(rows)
            left = [i for i in left if i not in done]
        return losses

    def _keep_pace(self, examples: Sequence[Example], owners: Sequence[int], mine: Sequence[int]) -> None:
        """Call sharded layers as often as the process with most passes does, for nothing."""
        own = [examples[i] for i in mine], [owners[i] for i in mine]
        needed = len(list(passes(self.backbone, *own, self.limit, targets=True)))
        scale, self.scale = self.scale, 0.0
        for _ in range(distributed.most(needed) - needed):
            self._run_pass(examples[:1], owners[:1], [0.0])
        self.scale = scale

    def _run_pass(self, examples: Sequence[Example], owners: Sequence[int], weights: Sequence[float]) -> list[float]:
        """Run one forward and backward pass; returns each example's weighted loss."""
        nll = self.backbone.loss(self.pose(examples, owners)).nll
        weighted = nll * torch.tensor(weights, device=nll.device)
        # Rows are independent, so a row that is not finite is left out without touching the others' gradients.
        total = weighted[nll.isfinite()].sum()
        if total.requires_grad:
            (total * self.scale).backward()  # type: ignore[no-untyped-call]
        return list(weighted.detach().tolist())

    def _add_penalties(self, examples: Sequence[Example], owners: Sequence[int]) -> None:
        """Add the gradients of the prompts' penalties, each for all its examples of the step at once.

        SMoP's is a product of means over them: summed over passes it would depend on how the step was cut, and so on
        the prompts it is cut with. It asks for the embeddings alone, not for the network.
        """
        embedding = self.backbone.embedding
        rows = [row for row, i in enumerate(owners) if embedding.bank[i].prompt.has_penalty]
        if not rows:
            return
        batch = self.backbone.pose([examples[row] for row in rows], [owners[row] for row in rows], targets=True)
        with embedding.laid_out(batch.layout):
            embedding(batch.ids)
        penalties = [penalty for penalty in embedding.penalties.values() if bool(penalty.isfinite())]
        if penalties:
            (torch.stack(penalties).sum() * self.scale).backward()  # type: ignore[no-untyped-call]

    def _halve(self, examples: Sequence[Example], error: RuntimeError) -> None:
        """Make passes smaller after one of `examples` that did not fit. Raises OutOfMemory for a single example."""
        clear_device_cache(garbage_collection=True)
        sizes = [self.backbone.tokens.size(example, targets=True) for example in examples]
        if self.backbone.sharded:  # no process can repeat a pass by itself
            raise OutOfMemory(
                f"A pass of {sum(sizes)} tokens does not fit in memory ({str(error).splitlines()[0][:120]}). Start "
                f"with --tokens-per-pass {max(1, min(self.limit, sum(sizes)) // 2)}."
            ) from None
        if len(examples) == 1:
            raise OutOfMemory(
                f"One example of {sizes[0]} tokens does not fit in memory ({str(error).splitlines()[0][:120]}). Use "
                "--gradient-checkpointing, --dtype bfloat16, or read less of it with --max-source."
            ) from None
        self.limit = max(1, min(self.limit, sum(sizes)) // 2)
        warnings.warn(
            f"A pass of {len(examples)} examples does not fit in memory; going on with {self.limit} tokens a pass. The "
            "result is the same, in more passes.",
            stacklevel=2,
        )

    def _unscale(self, tensors: list[nn.Parameter], expected_finite: list[nn.Parameter]) -> bool:
        """Take the scale out of the gradients; False, after lowering it, when it made them overflow."""
        grads: list[Tensor] = [t.grad for t in expected_finite if t.grad is not None]
        if all(bool(grad.isfinite().all()) for grad in grads):
            for tensor in tensors:
                if tensor.grad is not None:
                    tensor.grad /= self.scale
            return True
        for tensor in tensors:
            tensor.grad = None
        self.scale = max(self.scale / 4, 1.0)
        return False
