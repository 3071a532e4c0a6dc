"""Share one run among several processes (`accelerate launch`, `torchrun`), data parallel.

Every process runs the whole program with the same arguments and holds all prompts; it computes only its share of the
examples of a step and of an evaluation. Gradients and records are then combined, so every process takes the same step
and makes the same decisions: the result of a run does not depend on the number of processes. In one process the
functions below do nothing. accelerate finds the processes, their devices and their backend (NCCL, gloo).
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import broadcast, broadcast_object_list, gather_object, parse_flag_from_env, reduce
from torch import Tensor

from softprompt.errors import BadInput
from softprompt.runtime.launch import place

Key = TypeVar("Key")
Value = TypeVar("Value")

TOGETHER = 1 << 24
"""Values of gradients that are summed in one message."""

_state: PartialState | None = None
"""None before `join` and in one process: then all functions do nothing."""


def join(device: str | None) -> str | None:
    """Join the other processes of this run; return the device that this one uses.

    `device` is what the user gave. Raises BadInput for one that all processes would share.
    """
    global _state
    if place().processes == 1:
        return device
    if parse_flag_from_env("ACCELERATE_USE_DEEPSPEED"):
        raise BadInput("DeepSpeed is configured; expected data parallel or FSDP. Choose one with `accelerate config`.")
    if device is not None and ":" in device:
        raise BadInput(
            f"--device {device} is one device, and there are {place().processes} processes; give its kind alone."
        )
    if _state is None:
        # Without it transformers 5.23.0 loads weights only in the first process; here each loads all, then shards.
        os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] = "false"
        on_cpu = parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.cuda.is_available()
        _state = PartialState(cpu=device == "cpu" or (device is None and on_cpu))
        wait()
    return "cpu" if _state.device.type == "cpu" else str(_state.device)


def shards() -> bool:
    """Return whether the launcher asks for sharding (`accelerate launch --use_fsdp`, or accelerate's config file)."""
    return place().processes > 1 and parse_flag_from_env("ACCELERATE_USE_FSDP")


def check_sharding(asked: bool) -> None:
    """Raise BadInput when `asked` in one process, which has nothing to shard a backbone over."""
    if asked and place().processes == 1:
        raise BadInput(
            "--fsdp shards the backbone over the processes of a run, and this is one process; start it with "
            "accelerate launch --multi_gpu --num_processes N -m softprompt.cli train ..., or leave --fsdp out."
        )


def leave() -> None:
    """Leave the other processes, at the end of the program."""
    global _state
    if _state is not None:
        wait()
        _state.destroy_process_group()
        _state = None


def process_count() -> int:
    """Return the number of processes."""
    return 1 if _state is None else int(_state.num_processes)


def rank() -> int:
    """Return this process's number, from 0."""
    return 0 if _state is None else int(_state.process_index)


def is_first() -> bool:
    """Return whether this is the process that writes and prints."""
    return rank() == 0


def wait() -> None:
    """Wait until every process is here."""
    if _state is not None:
        _state.wait_for_everyone()


@contextmanager
def in_turn(*, alone: bool) -> Iterator[None]:
    """Let the first process of each machine run the block before the others; with `alone`, one at a time."""
    own = 0 if _state is None else int(_state.local_process_index)
    turn, turns = (own, most(own + 1)) if alone else (min(own, 1), 2)
    for _ in range(turn):
        wait()
    yield
    for _ in range(turn, turns):
        wait()


def share(items: int, size_of: Callable[[int], int] = lambda _: 1) -> list[int]:
    """Return the indices of this process's items: neighbors, with about the total size of every other process's.

    They are neighbors because examples of one prompt are cheapest together. A process may have none.
    """
    if process_count() == 1:
        return list(range(items))
    sizes = [max(size_of(i), 1) for i in range(items)]
    whole, before, mine = sum(sizes), 0, []
    for i, size in enumerate(sizes):
        if ((2 * before + size) * process_count() - 1) // (
            2 * whole
        ) == rank():  # the process whose part contains the item's middle
            mine.append(i)
        before += size
    return mine


def gather(value: Value) -> list[Value]:
    """Return every process's value, by rank."""
    return [value] if _state is None else list(gather_object([value]))


def from_first(value: Value) -> Value:
    """Return the first process's value."""
    if _state is not None:
        value = broadcast_object_list([value])[0]
    return value


def copy_from_first(tensors: Iterable[Tensor]) -> None:
    """Set these tensors to the first process's values."""
    for tensor in tensors:
        if _state is not None:
            tensor.copy_(broadcast(tensor.detach().clone()))


def anyone(flag: bool) -> bool:
    """Return whether the flag is set in any process."""
    return total({"": float(flag)})[""] > 0


def most(number: int) -> int:
    """Return the largest number of any process."""
    return int(max(gather(number)))


def total(numbers: Mapping[Key, float]) -> dict[Key, float]:
    """Sum numbers over processes, by key; all have the same keys in the same order."""
    if _state is None:
        return dict(numbers)
    own = torch.tensor(list(numbers.values()), dtype=torch.float64, device=_state.device)
    return dict(zip(numbers, reduce(own, "sum").tolist(), strict=True))


def sum_gradients(tensors: Sequence[Tensor]) -> None:
    """Replace the gradients of every process by their sum; None where no process has one."""
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
    """Raise BadInput when the processes differ in `value`: every machine must have the same arguments and files."""
    if any(other != value for other in gather(value)):
        raise BadInput(
            f"The processes of this run differ in {what}; expected the same files and arguments on every machine."
        )


def draw_apart() -> None:
    """Give each process its own random numbers from here on: only a backbone's dropout draws any."""
    if rank():
        torch.manual_seed(int(torch.randint(2**62, ())) + rank())
