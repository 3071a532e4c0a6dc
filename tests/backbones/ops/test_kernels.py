"""The kernels multiply alike, and the fastest is chosen once for a machine."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from softprompt.backbones import found_out
from softprompt.backbones.ops import kernels
from softprompt.backbones.ops.kernels import KERNELS, Kernel, choose, multiply, pack
from tests.compare import assert_close


@pytest.fixture(autouse=True)
def _own_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(found_out, "cache_folder", lambda: tmp_path)
    monkeypatch.setattr(kernels, "_known", {})


def takes(monkeypatch: pytest.MonkeyPatch, **seconds: float) -> list[Kernel]:
    """Let the kernels take so long; returns those that were timed."""
    timed: list[Kernel] = []

    def told(kernel: Kernel, inputs: list[Tensor], weight: Tensor) -> list[float]:
        timed.append(kernel)
        return [seconds[kernel]] * len(inputs)

    monkeypatch.setattr(kernels, "_seconds", told)
    return timed


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("turned", [False, True])
def test_kernels_multiply_alike(kernel: Kernel, dtype: torch.dtype, turned: bool) -> None:
    weight = torch.randn(48, 80).to(dtype)
    weight, bias = (weight.t(), None) if turned else (weight, torch.randn(48).to(dtype))
    states = torch.randn(2, 5, weight.shape[1]).to(dtype)
    made = multiply(kernel, states, pack(weight) if kernel == "packed" else weight, bias)
    assert_close(
        made.float(), nn.functional.linear(states, weight, bias).float(), 1e-5 if dtype is torch.float32 else 0.02
    )


@pytest.mark.parametrize(
    ("seconds", "best"),
    [
        ({"torch": 1.0, "onednn": 1.0, "packed": 1.0}, "torch"),
        ({"torch": 1.0, "onednn": 0.98, "packed": 0.95}, "torch"),  # not worth it
        ({"torch": 1.0, "onednn": 0.5, "packed": 0.48}, "onednn"),
        ({"torch": 1.0, "onednn": 1.2, "packed": 0.9}, "packed"),  # as on Intel
        ({"torch": 1.0, "onednn": 0.5, "packed": 0.4}, "packed"),  # as on AMD
    ],
)
def test_a_kernel_must_win_by_more_than_its_price(
    seconds: dict[str, float], best: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    takes(monkeypatch, **seconds)
    assert choose(32, 48, torch.float32) == (best, best)


def test_a_shape_is_timed_once_for_a_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    timed = takes(monkeypatch, torch=1.0, onednn=0.5, packed=0.5)
    first = choose(32, 48, torch.float32)
    count = len(timed)
    assert choose(32, 48, torch.float32) == first
    monkeypatch.setattr(kernels, "_known", {})  # another process
    assert choose(32, 48, torch.float32) == first
    assert len(timed) == count > 0
    choose(32, 48, torch.bfloat16)
    choose(48, 32, torch.float32)
    assert len(timed) == 3 * count
    monkeypatch.setattr(kernels, "processor_name", lambda: "another")
    choose(32, 48, torch.float32)
    assert len(timed) == 4 * count


def test_what_another_process_found_meanwhile_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def told(kernel: Kernel, inputs: list[Tensor], weight: Tensor) -> list[float]:
        file = tmp_path / "kernels" / f"{kernels._digest(torch.float32)}.json"
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps({"32x48": ["onednn", "torch"]}))
        return [1.0 if kernel == "torch" else 0.1] * len(inputs)

    monkeypatch.setattr(kernels, "_seconds", told)
    assert choose(32, 48, torch.float32) == ("onednn", "torch")


@pytest.mark.parametrize("text", ["", "[]", '{"32x48": ["fastest", "torch"]}', '{"32x48": ["torch"]}', '{"32x48": 3}'])
def test_a_damaged_memory_is_found_out_again(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    takes(monkeypatch, torch=1.0, onednn=0.5, packed=0.5)
    (tmp_path / "kernels").mkdir()
    (tmp_path / "kernels" / f"{kernels._digest(torch.float32)}.json").write_text(text)
    assert choose(32, 48, torch.float32) == ("onednn", "onednn")


def test_a_kernel_that_is_missing_or_means_something_else_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    takes(monkeypatch, torch=1.0, onednn=0.1, packed=0.1)

    def missing(weight: Tensor) -> Tensor:
        raise RuntimeError("no such operator")

    monkeypatch.setattr(kernels, "pack", missing)
    assert choose(32, 48, torch.float32) == ("onednn", "onednn")
    monkeypatch.setattr(kernels, "_known", {})
    monkeypatch.setattr(found_out, "cache_folder", lambda: Path("/nowhere"))
    monkeypatch.setattr(
        kernels, "multiply", lambda kernel, x, w, bias=None: nn.functional.linear(x, w) * (1 + (kernel == "onednn"))
    )
    assert choose(32, 48, torch.float32) == ("torch", "torch")
