"""Checkpoints: a run's state in one file, replaced at once, from which `resume` goes on bit-identically.

checkpoint.safetensors holds the prompt's tensors, the best ones, AdamW's moments and the random states;
its metadata holds the rest as JSON. Never pickle.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from softprompt.errors import BadArtefact
from softprompt.runtime import distributed
from softprompt.runtime.files import write_tensors
from softprompt.training.candidate import Candidate

FILE = "checkpoint.safetensors"
FORMAT = 1


def save_checkpoint(candidate: Candidate, folder: Path) -> None:
    """Write everything that training goes on from to `folder`."""
    tensors: dict[str, Tensor] = {"random.cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        tensors["random.cuda"] = torch.cuda.get_rng_state()
    tensors |= {f"prompt.{name}": tensor for name, tensor in candidate.prompt.state_dict().items()}
    tensors |= {f"best.{name}": tensor for name, tensor in candidate.best_state.items()}
    for index, state in candidate.optimizer.state_dict()["state"].items():
        tensors |= {f"adamw.{index}.{name}": torch.as_tensor(value) for name, value in state.items()}
    rest = {
        "format": FORMAT,
        "step": candidate.step,
        "best": candidate.best,
        "stale": candidate.stale,
        "stopped": candidate.stopped,
        "failed": candidate.failed,
        "history": candidate.history,
    }
    write_tensors(folder / FILE, tensors, {"softprompt": json.dumps(rest)})


def load_checkpoint(candidate: Candidate, folder: Path) -> None:
    """Bring `candidate` to the state saved in `folder`. Raises BadArtefact."""
    path = folder / FILE
    try:
        with safe_open(path, framework="pt") as file:
            rest = json.loads((file.metadata() or {})["softprompt"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a dict
    except FileNotFoundError:
        raise BadArtefact(f"{folder} has no {FILE}, so there is nothing to resume; train it again.") from None
    except (SafetensorError, KeyError, ValueError) as error:
        raise BadArtefact(
            f"{path} is damaged or not a checkpoint of softprompt: {error}. Train again with --overwrite."
        ) from None
    if rest["format"] != FORMAT:
        raise BadArtefact(f"{path} has format {rest['format']}; this version reads {FORMAT}.")
    candidate.prompt.load_state_dict(_under("prompt.", tensors))
    candidate.best_state = _under("best.", tensors)
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in _under("adamw.", tensors).items():
        index, key = name.split(".")
        state.setdefault(int(index), {})[key] = tensor
    candidate.optimizer.load_state_dict({**candidate.optimizer.state_dict(), "state": state})
    candidate.step, candidate.best, candidate.stale = rest["step"], rest["best"], rest["stale"]
    candidate.stopped, candidate.failed, candidate.history = rest["stopped"], rest["failed"], rest["history"]
    candidate.random = _under("random.", tensors)


def restore_random(candidates: Sequence[Candidate]) -> None:
    """Set the random states as if these were the only ones: from the first one's seed, or from where they were left.

    Only a backbone's dropout draws from them.
    """
    torch.manual_seed(candidates[0].recipe.seed)
    for candidate in candidates:
        if candidate.random:
            torch.set_rng_state(candidate.random["cpu"])
            if "cuda" in candidate.random and torch.cuda.is_available():
                torch.cuda.set_rng_state(candidate.random["cuda"])
    distributed.draw_apart()


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
