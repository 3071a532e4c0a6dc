"""Type what torch.autograd.Function hands to forward and backward; torch declares it as Any."""

from typing import Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class AutogradContext(Protocol):
    """What forward leaves for backward. A function with values of its own extends it."""

    saved_tensors: tuple[Tensor, ...]
    needs_input_grad: tuple[bool, ...]

    def save_for_backward(self, *tensors: Tensor) -> None: ...
