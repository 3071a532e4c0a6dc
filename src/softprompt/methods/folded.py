"""What is stored of a soft prompt: plain tensors where it can be folded, else its own."""

from typing import Literal, NamedTuple

from jaxtyping import Float
from torch import Tensor

Kind = Literal["prompt", "prompt+position", "prompt+token", "input", "network"]
"""What a soft prompt folds to: kinds A, B, C and D of the documentation, in order; and baselines, which do not fold."""


class TokenOffset(NamedTuple):
    """What kind "prompt+token" adds to a token embedding x: relu(x down + down_bias) up + up_bias."""

    down: Float[Tensor, "d r"]
    down_bias: Float[Tensor, " r"]
    up: Float[Tensor, "r d"]
    up_bias: Float[Tensor, " d"]


class Folded(NamedTuple):
    """The deployable form: plain tensors, no method left in them."""

    kind: Kind
    prompt: Float[Tensor, "l d"]
    offset: Float[Tensor, "s d"] | None = None
    """Kind "prompt+position": what is added at each source position."""
    zeroed: int = 0
    """Offset rows that training never reached and that were therefore set to zero."""
    network: TokenOffset | None = None
    """Kind "prompt+token": what makes the offset of a token."""


class Unfolded(NamedTuple):
    """The form of kind "input", which no plain tensors can stand for: the soft prompt's own, by their names."""

    tensors: dict[str, Tensor]


class AdapterTensors(NamedTuple):
    """The form of kind "network": what was trained inside the network, by its names there."""

    tensors: dict[str, Tensor]
    adapter: dict[str, object] | None = None
    """What PEFT's adapter_config.json says of them; None where PEFT has no part in it."""


NETWORK = "network."


def stored_tensors(form: Folded | Unfolded | AdapterTensors) -> dict[str, Tensor]:
    """Name the tensors of the file that holds `form`."""
    if isinstance(form, Unfolded | AdapterTensors):
        return form.tensors
    tensors = {"prompt": form.prompt} | ({} if form.offset is None else {"offset": form.offset})
    network = {} if form.network is None else form.network._asdict()
    return tensors | {f"{NETWORK}{name}": tensor for name, tensor in network.items()}


def stored(form: Folded | Unfolded | AdapterTensors) -> int:
    """Count the values in the file that holds `form`."""
    return sum(tensor.numel() for tensor in stored_tensors(form).values())
