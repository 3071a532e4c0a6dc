"""The ways to compute one training step that the benchmarks compare, each in a process of its own.

A worker process holds one route and answers "do step i": the routes take turns, so a busy machine slows all of
them, and a worker's peak memory is its route's alone.
"""

import multiprocessing
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from softprompt.backbones import Backbone, Batch, Causal, Seq2Seq, load_backbone
from softprompt.methods.bank import Bank
from softprompt.methods.registry import InitContext, get_method, make, parse_options
from softprompt.methods.soft_prompt import SoftPrompt
from softprompt.tasks import Example
from softprompt.tasks.registry import get_task
from softprompt.training.gradients import Gradients


@dataclass(frozen=True)
class Case:
    """What is computed: a backbone, sources of `low` to `high` tokens, b examples a step, prompts of length l."""

    name: str
    backbone: str
    low: int
    high: int
    length: int
    batch: int = 16
    method: str = "prompt_tuning"
    options: tuple[tuple[str, int], ...] = ()
    """Of our method, where it is not prompt tuning of length l, which PEFT always is."""


def steps(case: Case, backbone: Backbone, count: int) -> list[list[Example]]:
    """`count` batches of shipped support messages, joined and cut to lengths drawn from the case's range."""
    task = get_task("support")
    messages = [example.source for example in task.examples["train"]]
    draw = torch.Generator().manual_seed(0)

    def one() -> Example:
        wanted = int(torch.randint(case.low, case.high + 1, (1,), generator=draw))
        text = ""
        while len(backbone.tokens(text)) < wanted:
            text += " " + messages[int(torch.randint(len(messages), (1,), generator=draw))]
        words = text.split()
        while words and len(backbone.tokens(" ".join(words))) > wanted:
            words.pop()
        return Example(" ".join(words), task.choices[int(torch.randint(6, (1,), generator=draw))])

    return [[one() for _ in range(case.batch)] for _ in range(count)]


def start(backbone: Backbone, length: int) -> SoftPrompt:
    """Prompt tuning of `length` rows of the vocabulary: the same numbers in every route."""
    method = get_method("prompt_tuning")
    return make(method, parse_options(method, {"length": length}), InitContext(backbone, 256, (), 0))


def dept(case: Case, backbone: Backbone) -> SoftPrompt:
    method = get_method(case.method)
    prompt = make(method, parse_options(method, dict(case.options)), InitContext(backbone, 256, (), 0))
    with torch.no_grad():  # B starts at zero; a step that is timed should not
        for tensor in prompt.parameters():
            tensor.add_(torch.randn(tensor.shape, generator=torch.Generator().manual_seed(1)) * 1e-3)
    return prompt


Step = Callable[[int], tuple[float, list[Tensor]]]


@dataclass
class Fed:
    """What a Candidate is to `Gradients`."""

    prompt: SoftPrompt
    batches: list[list[Example]]
    step: int = 0
    learns_inputs: bool = False

    def next_examples(self) -> list[Example]:
        return self.batches[self.step]

    def weight(self, example: Example) -> float:
        return 1.0


def ours(
    case: Case, dtype: str, count: int, plain: bool = False, columns: int | None = None, **settings: bool
) -> tuple[Step, Any]:
    """softprompt's own step. `plain`: each example with its own prompt, or one encoder run.

    `columns`: as the DePT authors' code, every source padded to so many, on transformers' layers as they are.
    """
    backbone = load_backbone(case.backbone, dtype=dtype, max_source=512, **settings)  # type: ignore[arg-type]
    if isinstance(backbone, Causal):
        backbone.share = not plain
    elif plain:
        _one_run(backbone, columns)  # type: ignore[arg-type]
    if columns is not None:
        _as_it_was(backbone.model)
    prompt = (start(backbone, case.length) if case.method == "prompt_tuning" else dept(case, backbone)).train()
    fed = Fed(prompt, steps(case, backbone, count))
    gradients = Gradients(backbone)

    def step(i: int) -> tuple[float, list[Tensor]]:
        fed.step = i
        for tensor in prompt.parameters():
            tensor.grad = None
        with backbone.using(Bank({"one": prompt})):
            loss = gradients([fed], [0])[0]  # type: ignore[list-item]
        return loss, [t.grad for t in prompt.parameters() if t.grad is not None]

    return step, backbone


def _as_it_was(model: nn.Module) -> None:
    """Undo softprompt.backbones.ops.fused and .linear."""
    for module in model.modules():
        module.__dict__.pop("forward", None)


def _one_run(backbone: Seq2Seq, columns: int | None) -> None:
    """Let the encoder read all rows at once, padded to the longest or, as the DePT authors' code does, to `columns`."""

    def encoded(batch: Batch) -> Tensor:
        ids, mask, layout = batch.ids, batch.mask, batch.layout
        more = 0 if columns is None else columns + 40 - ids.shape[1]
        with backbone.embedding.laid_out(layout):
            embeds = nn.functional.pad(backbone.embedding(ids), (0, 0, 0, more))
        encoder: Any = backbone.model.get_encoder()  # type: ignore[operator]
        states: Tensor = encoder(inputs_embeds=embeds, attention_mask=nn.functional.pad(mask, (0, more)).long())[0]
        return states[:, : ids.shape[1]]

    backbone.encoder_states = encoded  # type: ignore[method-assign]


def peft(case: Case, dtype: str, count: int) -> tuple[Step, Any]:
    """HF PEFT's prompt tuning at its best: padding to the batch's longest, SDPA attention, eval mode."""
    from peft import PromptTuningConfig, TaskType, get_peft_model

    backbone = load_backbone(case.backbone, dtype=dtype, max_source=512)  # for its tokenizer, and the same examples
    batches, table = steps(case, backbone, count), start(backbone, case.length)
    pad, seq2seq = backbone.pad, isinstance(backbone, Seq2Seq)
    sides = [
        [(backbone.tokens.source_ids(e, 512)[0], backbone.tokens.target_ids(e)) for e in batch] for batch in batches
    ]
    model: Any = backbone.model
    _as_it_was(model)
    model.set_input_embeddings(backbone.embedding.table) if not seq2seq else model.get_encoder().set_input_embeddings(
        backbone.embedding.table
    )
    task = TaskType.SEQ_2_SEQ_LM if seq2seq else TaskType.CAUSAL_LM
    made = get_peft_model(model, PromptTuningConfig(task_type=task, num_virtual_tokens=case.length))
    made.eval()
    rows = made.prompt_encoder["default"].embedding.weight
    with torch.no_grad():
        rows[: case.length] = next(iter(table.parameters()))

    def step(i: int) -> tuple[float, list[Tensor]]:
        rows.grad = None
        sources = [a if seq2seq else a + b for a, b in sides[i]]
        labels = [b if seq2seq else [-100] * len(a) + b for a, b in sides[i]]
        ids, mask = _right(sources, pad), _right([[1] * len(row) for row in sources], 0)
        loss = made(input_ids=ids, attention_mask=mask, labels=_right(labels, -100)).loss
        loss.backward()
        return float(loss.detach()), [rows.grad[: case.length]]

    return step, made


def _right(rows: list[list[int]], value: int) -> Tensor:
    longest = max(map(len, rows))
    return torch.tensor([row + [value] * (longest - len(row)) for row in rows])


ROUTES: dict[str, Callable[..., tuple[Step, Any]]] = {
    "ours": ours,
    "plain": lambda case, dtype, count: ours(case, dtype, count, plain=True),
    "fixed": lambda case, dtype, count: ours(case, dtype, count, plain=True, columns=256),
    "compiled": lambda case, dtype, count: ours(case, dtype, count, compile=True),
    "checkpointed": lambda case, dtype, count: ours(case, dtype, count, gradient_checkpointing=True),
    "peft": peft,
}


def _status(field: str) -> float:
    """A memory figure of this process in MiB: VmRSS (now), VmHWM (largest since `_forget_peak`). Linux only."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) / 1024
    raise KeyError(field)


def _forget_peak() -> None:
    """What loading a model took for a moment is not what is measured."""
    Path("/proc/self/clear_refs").write_text("5")


def _serve(connection: Connection, route: str, case: Case, dtype: str, count: int, threads: int) -> None:
    torch.set_num_threads(threads)
    step, _ = ROUTES[route](case, dtype, count)
    _forget_peak()
    connection.send(_status("VmRSS"))
    while (i := connection.recv()) is not None:
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        began = time.perf_counter()
        loss, grads = step(i)
        seconds = time.perf_counter() - began
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults
        copies = [g.numpy().copy() for g in grads]
        connection.send({"seconds": seconds, "loss": loss, "grads": copies, "peak": _status("VmHWM"), "faults": faults})


@contextmanager
def worker(route: str, case: Case, dtype: str, count: int) -> Iterator[Callable[[int], dict[str, Any]]]:
    """A process that does steps of `route`: call it with a step's number."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(there, route, case, dtype, count, torch.get_num_threads()))
    process.start()
    there.close()
    loaded = here.recv()

    def do(i: int) -> dict[str, Any]:
        here.send(i)
        found: dict[str, Any] = here.recv()
        return {**found, "loaded": loaded}

    try:
        yield do
    finally:
        here.send(None)
        process.join()
