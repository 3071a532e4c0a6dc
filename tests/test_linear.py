"""Frozen linear layers by oneDNN: the same products, and PyTorch's own where a gradient is asked for."""

import pytest
import torch
from torch import nn

from softprompt.backbones import linear
from softprompt.backbones.linear import quicken
from tests.compare import assert_close


def frozen() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(24, 40), nn.GELU(), nn.Linear(40, 8, bias=False)).requires_grad_(False)


def test_products_and_gradients_stay_what_they_were() -> None:
    model, states = frozen(), torch.randn(3, 5, 24)
    with torch.no_grad():
        expected = model(states)
    assert quicken(model) == 2
    assert quicken(model) == 0  # there already
    with torch.no_grad():
        assert_close(model(states), expected, 1e-6)
    wanted = states.clone().requires_grad_()
    model(wanted).sum().backward()
    assert wanted.grad is not None
    assert bool(wanted.grad.any())


def test_what_is_trained_or_not_float32_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert quicken(frozen().requires_grad_(True)) == 0
    assert quicken(frozen().bfloat16()) == 0
    monkeypatch.setattr(linear, "_linear", lambda module, states: states[..., :1] * 2)  # another meaning
    assert quicken(frozen()) == 0
