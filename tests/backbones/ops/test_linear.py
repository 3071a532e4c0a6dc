"""Frozen linear layers by oneDNN: the same products and gradients, and PyTorch's own wherever it may not stand in."""

import platform
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from softprompt.backbones import load_backbone
from softprompt.backbones.ops import linear
from softprompt.backbones.ops.linear import quicken
from tests import tiny
from tests.compare import assert_close

pytestmark = pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="oneDNN is used on x86-64 alone")


def frozen() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(24, 40), nn.GELU(), nn.Linear(40, 8, bias=False)).requires_grad_(False)


def answer(model: nn.Module, states: Tensor) -> tuple[Tensor, Tensor]:
    """What it makes of states (..., 24), and a gradient of it."""
    wanted = states.clone().requires_grad_()
    made = model(wanted)
    made.square().sum().backward()
    assert wanted.grad is not None
    return made.detach(), wanted.grad


@pytest.mark.parametrize("shape", [(24,), (1, 24), (3, 5, 24), (0, 24)])
def test_products_and_gradients_stay_what_they_were(shape: tuple[int, ...]) -> None:
    model, states = frozen(), torch.randn(shape)
    expected, slope = answer(model, states)
    assert quicken(model) == 2
    assert quicken(model) == 0  # there already
    made, own = answer(model, states)
    assert_close(made, expected, 1e-6)
    assert_close(own, slope, 1e-6)
    with torch.no_grad():
        assert_close(model(states), expected, 1e-6)
        rows = torch.randn(24, 6).t()  # a view
        assert_close(model(rows), model(rows.contiguous()), 1e-6)


def test_what_is_trained_or_not_float32_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert quicken(frozen().requires_grad_(True)) == 0
    assert quicken(frozen().bfloat16()) == 0
    monkeypatch.setattr(
        linear, "_product", lambda states, weight, bias=None: states @ weight.t() * 2
    )  # another meaning
    assert quicken(frozen()) == 0


def test_what_is_trained_later_has_its_gradients() -> None:
    model, states = frozen(), torch.randn(3, 24)
    quicken(model)
    for tensor in (model[0].bias, model[2].weight):
        assert isinstance(tensor, Tensor)
        tensor.requires_grad_(True)
    model(states).square().sum().backward()
    own = [tensor.grad for tensor in (model[0].bias, model[2].weight)]
    other = frozen().requires_grad_(True)
    other(states).square().sum().backward()
    for one, grad in zip(own, (other[0].bias.grad, other[2].weight.grad), strict=True):
        assert_close(one, grad, 1e-5)


def test_what_is_cast_later_or_runs_under_autocast_is_pytorchs() -> None:
    model, states = frozen(), torch.randn(3, 24)
    quicken(model)
    with torch.autocast("cpu", torch.bfloat16):
        assert model(states).dtype == torch.bfloat16
    assert model.bfloat16()(states.bfloat16()).dtype == torch.bfloat16


def test_a_loaded_backbone_has_them_in_float32(tmp_path: Path) -> None:
    folder = tiny.save_tiny("t5", tmp_path)

    def quick(dtype: str) -> int:
        found = [vars(module).get("forward") for module in load_backbone(folder, dtype=dtype).model.modules()]
        return sum(isinstance(one, partial) and one.func is linear._linear for one in found)

    assert quick("float32") > 0
    assert quick("bfloat16") == 0
