"""Frozen linear layers by the fastest kernel: the same products and gradients, and PyTorch's own where it must be."""

import copy
import platform
from typing import Any

import psutil
import pytest
import torch
from torch import Tensor, nn

from softprompt.backbones import load_backbone
from softprompt.backbones.ops import linear
from softprompt.backbones.ops.kernels import KERNELS, Kernel
from softprompt.backbones.ops.linear import QuickLinear, quicken
from tests.compare import assert_close
from tests.smollm2 import needs_smollm2

pytestmark = pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="oneDNN is used on x86-64 alone")


@pytest.fixture(autouse=True)
def _small_layers_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "SMALLEST", 1)


def frozen() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(24, 40), nn.GELU(), nn.Linear(40, 8, bias=False)).requires_grad_(False)


def by(ahead: Kernel, back: Kernel | None = None) -> Any:
    return lambda o, i, dtype: (ahead, back or ahead)


def answer(model: nn.Module, states: Tensor) -> tuple[Tensor, Tensor]:
    """What it makes of states (..., 24), and a gradient of it."""
    wanted = states.clone().requires_grad_()
    made = model(wanted)
    made.float().square().sum().backward()
    assert wanted.grad is not None
    return made.detach(), wanted.grad


@pytest.mark.parametrize("shape", [(24,), (1, 24), (3, 5, 24), (0, 24)])
@pytest.mark.parametrize(
    ("ahead", "back"), [("onednn", "onednn"), ("packed", "onednn"), ("packed", "packed"), ("torch", "packed")]
)
def test_products_and_gradients_stay_what_they_were(ahead: Kernel, back: Kernel, shape: tuple[int, ...]) -> None:
    model, states = frozen(), torch.randn(shape)
    expected, slope = answer(model, states)
    assert quicken(model, by(ahead, back)) == 2
    assert quicken(model, by(ahead, back)) == 0  # there already
    made, own = answer(model, states)
    assert_close(made, expected, 1e-6)
    assert_close(own, slope, 1e-6)
    with torch.no_grad():
        assert_close(model(states), expected, 1e-6)
        rows = torch.randn(24, 6).t()  # a view
        assert_close(model(rows), model(rows.contiguous()), 1e-6)


def test_bfloat16_is_multiplied_alike() -> None:
    model, states = frozen().bfloat16(), torch.randn(6, 24).bfloat16()
    expected, slope = answer(model, states)
    assert quicken(model, by("packed")) == 2
    made, own = answer(model, states)
    assert_close(made.float(), expected.float(), 0.02)
    assert_close(own.float(), slope.float(), 0.02)


def test_what_is_trained_small_or_of_another_type_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert quicken(frozen().requires_grad_(True), by("packed")) == 0
    assert quicken(frozen().half(), by("packed")) == 0
    assert quicken(frozen(), by("torch")) == 0
    monkeypatch.setattr(linear, "SMALLEST", 10_000)
    assert quicken(frozen(), by("packed")) == 0


def kernels_of(model: nn.Module) -> set[tuple[str, str]]:
    found = [vars(module).get("forward") for module in model.modules()]
    return {(one.ahead, one.back) for one in found if isinstance(one, QuickLinear)}


def test_weights_are_copied_only_where_memory_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    model = frozen()
    price = 2 * 4 * (24 * 40 + 40 * 8)
    free = psutil.virtual_memory()._replace(available=4 * price)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free)
    quicken(model, by("packed"))
    assert kernels_of(model) == {("packed", "packed")}
    model = frozen()
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free._replace(available=4 * price - 1))
    quicken(model, by("packed", "torch"))
    assert kernels_of(model) == {("onednn", "torch")}


def test_an_output_layer_is_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "LARGEST", 500)
    monkeypatch.setattr(linear, "TIMED", 30)
    model, asked = frozen(), []

    def choosing(o: int, i: int, dtype: torch.dtype) -> tuple[Kernel, Kernel]:
        asked.append((o, i))
        return "packed", "packed"

    quicken(model, choosing)
    assert kernels_of(model) == {("onednn", "onednn"), ("packed", "packed")}
    assert asked == [(30, 24), (8, 40)]


@pytest.mark.parametrize("kernel", KERNELS[1:])
def test_what_is_trained_later_has_its_gradients(kernel: Kernel) -> None:
    model, states = frozen(), torch.randn(3, 24)
    quicken(model, by(kernel))
    for tensor in (model[0].bias, model[2].weight):
        assert isinstance(tensor, Tensor)
        tensor.requires_grad_(True)
    model(states).square().sum().backward()
    own = [tensor.grad for tensor in (model[0].bias, model[2].weight)]
    other = frozen().requires_grad_(True)
    other(states).square().sum().backward()
    for one, grad in zip(own, (other[0].bias.grad, other[2].weight.grad), strict=True):
        assert_close(one, grad, 1e-5)


def test_a_weight_that_is_changed_or_replaced_is_read_anew() -> None:
    states = torch.randn(3, 24)
    model = frozen()
    quicken(model, by("packed"))
    with torch.no_grad():
        model[0].weight.mul_(2)
        model[2].weight = nn.Parameter(torch.ones(8, 40), requires_grad=False)
        assert_close(model(states), nn.Sequential(*(copy.deepcopy(m) for m in model))(states), 1e-6)
        expected = nn.functional.gelu(states @ model[0].weight.t() + model[0].bias) @ torch.ones(40, 8)
        assert_close(model(states), expected, 1e-5)


def test_what_is_cast_later_or_runs_under_autocast_is_pytorchs() -> None:
    model, states = frozen(), torch.randn(3, 24)
    quicken(model, by("packed"))
    with torch.autocast("cpu", torch.bfloat16):
        assert model(states).dtype == torch.bfloat16
    assert model.bfloat16()(states.bfloat16()).dtype == torch.bfloat16


def test_a_copy_of_a_model_computes_by_itself() -> None:
    model, states = frozen(), torch.randn(3, 24)
    quicken(model, by("packed"))
    other = copy.deepcopy(model)
    with torch.no_grad():
        other[0].weight.zero_()
        assert_close(other(states), other[2](nn.functional.gelu(other[0].bias.expand(3, -1))), 1e-6)
        assert not torch.allclose(model(states), other(states))


@needs_smollm2
@pytest.mark.smollm2
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_loaded_backbone_answers_as_by_pytorch(dtype: str) -> None:
    backbone = load_backbone("smollm2-135m", dtype=dtype)
    ids = torch.arange(100, 140).reshape(2, 20)
    with torch.no_grad():
        made = backbone.model(ids).logits
        for module in backbone.model.modules():
            if isinstance(vars(module).get("forward"), QuickLinear):
                del module.forward
        expected = backbone.model(ids).logits
    assert_close(made.float(), expected.float(), 1e-4 if dtype == "float32" else 0.05)
