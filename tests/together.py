"""What each process of tests/runtime/test_distributed.py does: `python -m tests.together FOLDER`, started twice."""

import json
import os
import signal
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from softprompt import cli
from softprompt.backbones import Backbone, load_backbone
from softprompt.errors import BadInput, OutOfMemory
from softprompt.evaluation.evaluate import evaluate_examples
from softprompt.methods.bank import Bank
from softprompt.recipes import Recipe
from softprompt.runtime import distributed
from softprompt.runtime.files import write_json, write_tensors
from softprompt.training.candidate import Candidate, make_candidate
from softprompt.training.gradients import Gradients
from softprompt.training.loop import tune
from tests import tiny
from tests.candidates import candidate, tiny_task

# One step's examples cannot be halved evenly: some candidates have fewer than there are distributed.
BANK: list[tuple[str, dict[str, Any]]] = [
    ("prompt_tuning", {"batch": 5}),
    ("dept", {"seed": 1}),
    ("superpos", {"batch": 1}),
    ("adept", {"batch": 3, "clip": 0.01}),
    ("smop", {"seed": 2}),
    ("prompt_tuning", {"steps": 4, "patience": 1, "evaluate_every": 1}),
]


def bank(backbone: Backbone) -> list[Candidate]:
    """A mixed bank, tuned on `backbone` by all processes there are."""
    made = [candidate(backbone, method, **recipe) for method, recipe in BANK]
    for i, one in enumerate(made):
        one.name = f"{one.name}-{i}"
    tune(backbone, made)
    return made


def network(backbone: Backbone) -> list[Candidate]:
    """A baseline, whose tensors stand inside the network."""
    one = _baseline(backbone, "bitfit")
    tune(backbone, [one])
    return [one]


def _baseline(backbone: Backbone, method: str) -> Candidate:
    return make_candidate(method, Recipe(method=method, steps=6, batch=3, evaluate_every=3), backbone, tiny_task())


def ending(one: Candidate) -> dict[str, Any]:
    return {"best": one.best, "stopped": one.stopped, "history": one.history}


def texts(backbone: Backbone) -> list[str]:
    """Generated answers of different lengths; a count that no two processes share evenly."""
    task = tiny_task(choices=())
    one = candidate(backbone, "prompt_tuning", task, options={"length": 3})
    with backbone.using(Bank({"one": one.prompt})):
        return [
            record.prediction for record in evaluate_examples(backbone, task.examples["test"][:7], 0, max_new_tokens=9)
        ]


def _kept(folder: Path, name: str, found: list[Candidate]) -> None:
    """Everything of every process: they must hold the same."""
    place = folder / f"{name}-{distributed.rank()}"
    tensors = {f"{one.name}/{key}": tensor for one in found for key, tensor in one.prompt.state_dict().items()}
    write_tensors(place.with_suffix(".safetensors"), tensors, {})
    write_json(place.with_suffix(".json"), {one.name: ending(one) for one in found})


def _without_memory(backbone: Backbone, most: int) -> Backbone:
    """In the second process alone, more than `most` examples at a time do not fit."""
    fits: Callable[..., Any] = backbone.loss

    def loss(batch: Any) -> Any:
        if distributed.rank() == 1 and len(batch.prompts) > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
        return fits(batch)

    backbone.loss = loss  # type: ignore[method-assign]
    return backbone


def _said(act: Callable[[], object]) -> str:
    try:
        act()
    except (OutOfMemory, BadInput) as error:
        return str(error)
    return ""


def _interrupted(words: list[str]) -> int:
    """`softprompt train`, where the second process alone gets a SIGINT, in its third step; returns the exit code."""
    whole = Gradients.__call__

    def step(self: Gradients, found: Any, alive: Any) -> dict[int, float]:
        if distributed.rank() == 1 and found[0].step == 2:
            for _ in range(2):  # the launcher hands on what the terminal has sent already
                os.kill(os.getpid(), signal.SIGINT)
        return whole(self, found, alive)

    Gradients.__call__ = step  # type: ignore[method-assign]
    sys.argv = ["softprompt", *words]
    try:
        cli.main()
    except SystemExit as exit:
        return int(exit.code or 0)
    return 0


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    device = distributed.join("cpu")
    found: dict[str, Any] = {"device": device, "count": distributed.process_count()}
    for name in ("llama", "t5"):
        _kept(folder, name, bank(tiny.backbone(name)))
        settings = {"gradient_checkpointing": name == "llama", "fsdp": True}
        sharded = load_backbone(str(folder / name), device="cpu", **settings)  # type: ignore[arg-type]
        found[f"{name} values"] = sum(_here(tensor) for tensor in sharded.model.parameters())
        _kept(folder, f"{name}-sharded", bank(sharded))
        found[f"{name} texts"], found[f"{name} sharded texts"] = texts(tiny.backbone(name)), texts(sharded)
    _kept(folder, "network", network(tiny.backbone("bart")))
    _kept(folder, "halved", bank(_without_memory(tiny.backbone("llama"), 2)))
    never = _without_memory(tiny.backbone("llama"), 0)
    found["out of memory"] = _said(lambda: tune(never, [candidate(never, "prompt_tuning")]))
    found["baseline"] = _said(lambda: _baseline(sharded, "peft:lora"))
    found["disagreement"] = _said(lambda: distributed.agree(distributed.rank(), "their data"))
    found["exit"] = _interrupted(json.loads((folder / "words.json").read_text()))
    write_json(folder / f"found-{distributed.rank()}.json", found)
    distributed.leave()


def _here(tensor: Any) -> int:
    """Values of a tensor that this process holds."""
    return int((tensor.to_local() if hasattr(tensor, "to_local") else tensor).numel())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
