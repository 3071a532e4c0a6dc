"""The helpers that compare. tests/test_compare.py shows that each of them notices a wrong answer."""

import numpy as np
import torch


def assert_close(found: object, expected: object, tolerance: float = 1e-5) -> None:
    """Equal shapes, and every entry within `tolerance` of the largest expected one."""
    a, b = np.asarray(_plain(found), dtype=np.float64), np.asarray(_plain(expected), dtype=np.float64)
    assert a.shape == b.shape, f"shapes {a.shape} and {b.shape}"
    gap = np.abs(a - b).max(initial=0.0)
    assert gap <= tolerance * max(1.0, np.abs(b).max(initial=0.0)), f"largest difference {gap}"


def difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest difference, as a share of the largest expected entry (of 1 where all are zero)."""
    assert found.shape == expected.shape, f"shapes {found.shape} and {expected.shape}"
    a, b = found.double(), expected.double()
    largest = float(b.abs().max()) if b.numel() else 0.0
    return float((a - b).abs().max()) / (largest or 1.0) if b.numel() else 0.0


def assert_same_tensors(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    """The same names and the same bits."""
    assert found.keys() == expected.keys(), f"names {sorted(found)} and {sorted(expected)}"
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), f"{name} differs by {(found[name] - tensor).abs().max()}"


def moved(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    """Names of the tensors that are not what they were."""
    assert before.keys() == after.keys()
    return {name for name in before if not torch.equal(before[name], after[name])}


def copied(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


def _plain(value: object) -> object:
    return value.detach().numpy() if isinstance(value, torch.Tensor) else value
