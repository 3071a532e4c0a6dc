"""Several processes, one run (`accelerate launch`, `torchrun`): each does its share, and all hold the same result.

Every process runs the whole program on the same words and holds all prompts; alone it computes its share of a step's
examples and of an evaluation's. Gradients and records are then put together, so every process takes the same step and
comes to the same decisions: what a run ends with does not depend on how many processes there are. In one process the
verbs below do nothing. accelerate finds the processes, their devices and how they talk (NCCL, gloo).
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import broadcast, broadcast_object_list, gather_object, parse_flag_from_env, reduce
from torch import Tensor

from softprompt.errors import BadInput
from softprompt.runtime.launch import place

Key = TypeVar("Key")

TOGETHER = 1 << 24
"""Values of gradients that are summed in one message."""

_state: PartialState | None = None
"""None until `join`: then, and in one process, all verbs do nothing."""


def join(device: str | None) -> str | None:
    """Meet the other processes of this run; returns the device that this one uses.

    `device` is the user's word. Raises BadInput for one that all processes would share.
    """
    global _state
    if place().processes == 1:
        return device
    if parse_flag_from_env("ACCELERATE_USE_DEEPSPEED"):
        raise BadInput("DeepSpeed was asked for; expected data parallel or FSDP. Choose one with `accelerate config`.")
    if device is not None and ":" in device:
        raise BadInput(
            f"--device {device} is one device, and there are {place().processes} processes; give its kind alone."
        )
    if _state is None:
        # We load a backbone whole and shard it then; transformers would leave it empty in all processes but the first.
        os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] = "false"
        on_cpu = parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.cuda.is_available()
        _state = PartialState(cpu=device == "cpu" or (device is None and on_cpu))
        wait()
    return "cpu" if _state.device.type == "cpu" else str(_state.device)


def shards() -> bool:
    """Whether the launcher was told to shard (`accelerate launch --use_fsdp`, or accelerate's config file)."""
    return place().processes > 1 and parse_flag_from_env("ACCELERATE_USE_FSDP")


def check_sharding(asked: bool) -> None:
    """Raise BadInput where there is nothing to spread a backbone over."""
    if asked and place().processes == 1:
        raise BadInput(
            "--fsdp spreads the backbone over the processes of a run, and this is one process; start it with "
            "accelerate launch --multi_gpu --num_processes N -m softprompt.cli train ..., or leave --fsdp out."
        )


def leave() -> None:
    """Part from the others, at the end of the program."""
    global _state
    if _state is not None:
        wait()
        _state.destroy_process_group()
        _state = None


def process_count() -> int:
    return 1 if _state is None else int(_state.num_processes)


def rank() -> int:
    return 0 if _state is None else int(_state.process_index)


def is_first() -> bool:
    """Whether this is the process that writes and prints."""
    return rank() == 0


def wait() -> None:
    """Until every process is here."""
    if _state is not None:
        _state.wait_for_everyone()


@contextmanager
def in_turn(*, alone: bool) -> Iterator[None]:
    """The first process of each machine goes through the block before the others do; with `alone`, one by one."""
    own = 0 if _state is None else int(_state.local_process_index)
    turn, turns = (own, most(own + 1)) if alone else (min(own, 1), 2)
    for _ in range(turn):
        wait()
    yield
    for _ in range(turn, turns):
        wait()


def share(items: int, size_of: Callable[[int], int] = lambda _: 1) -> list[int]:
    """Which of so many items this process takes: neighbours, as large together as every other process's.

    Neighbours, because examples of one prompt are cheapest together. A process may be left with none.
    """
    if process_count() == 1:
        return list(range(items))
    sizes = [max(size_of(i), 1) for i in range(items)]
    whole, before, mine = sum(sizes), 0, []
    for i, size in enumerate(sizes):
        if ((2 * before + size) * process_count() - 1) // (2 * whole) == rank():  # whose part holds the item's middle
            mine.append(i)
        before += size
    return mine


def gathered(value: Any) -> list[Any]:
    """Every process's value, by rank."""
    return [value] if _state is None else list(gather_object([value]))


def from_first(value: Any) -> Any:
    """The first process's value."""
    return value if _state is None else broadcast_object_list([value])[0]


def spread(tensors: Iterable[Tensor]) -> None:
    """Give these tensors the first process's values."""
    for tensor in tensors:
        if _state is not None:
            tensor.copy_(broadcast(tensor.detach().clone()))


def anyone(flag: bool) -> bool:
    return total({"": float(flag)})[""] > 0


def most(number: int) -> int:
    return int(max(gathered(number)))


def total(numbers: Mapping[Key, float]) -> dict[Key, float]:
    """The sum over processes by key; all have the same keys in the same order."""
    if _state is None:
        return dict(numbers)
    own = torch.tensor(list(numbers.values()), dtype=torch.float64, device=_state.device)
    return dict(zip(numbers, reduce(own, "sum").tolist(), strict=True))


def sum_gradients(tensors: Sequence[Tensor]) -> None:
    """Leave in every process the sum of all processes' gradients; None where no process has one."""
    if _state is None:
        return
    there = total({i: float(tensor.grad is not None) for i, tensor in enumerate(tensors)})
    bundle: list[Tensor] = []
    for i, tensor in enumerate(tensors):
        if there[i]:
            bundle.append(tensor)
        if bundle and (i == len(tensors) - 1 or sum(one.numel() for one in bundle) >= TOGETHER):
            own = [torch.zeros_like(one) if one.grad is None else one.grad for one in bundle]
            summed = reduce(torch.cat([grad.flatten() for grad in own]), "sum")
            for one, grad in zip(bundle, summed.split([one.numel() for one in bundle]), strict=True):
                one.grad = grad.view_as(one).clone()
            bundle = []


def join_flags(flags: Iterable[Tensor]) -> None:
    """Set the entries of these bool tensors that are set in any process."""
    own = list(flags)
    if _state is None or not own:
        return
    found = reduce(torch.cat([flag.flatten() for flag in own]).float(), "max").bool()
    for flag, either in zip(own, found.split([flag.numel() for flag in own]), strict=True):
        flag.copy_(either.view_as(flag))


def agree(value: object, what: str) -> None:
    """Raise BadInput when the processes differ in `value`: on every machine they must have been told the same."""
    if any(other != value for other in gathered(value)):
        raise BadInput(
            f"The processes of this run differ in {what}; expected the same files and words on every machine."
        )


def draw_apart() -> None:
    """Let each process draw numbers of its own from here on: only a backbone's dropout draws."""
    if rank():
        torch.manual_seed(int(torch.randint(2**62, ())) + rank())
