import numpy as np
import pytest
import torch

from tests.compare import assert_close, assert_same_tensors, copied, difference, moved


def test_assert_close_notices_a_wrong_answer() -> None:
    assert_close(torch.ones(2, 3), np.ones((2, 3)))
    with pytest.raises(AssertionError, match="largest difference"):
        assert_close(torch.tensor([1.0, 1.001]), np.array([1.0, 1.0]))
    with pytest.raises(AssertionError, match="shapes"):
        assert_close(torch.ones(3), np.ones((1, 3)))


def test_difference_is_a_share_of_the_largest_entry() -> None:
    assert difference(torch.tensor([1e-6, 2e-6]), torch.tensor([1e-6, 1e-6])) == pytest.approx(1.0)
    assert difference(torch.ones(2), torch.ones(2)) == 0.0
    with pytest.raises(AssertionError, match="shapes"):
        difference(torch.ones(2), torch.ones(1, 2))


def test_assert_same_tensors_notices_a_wrong_answer() -> None:
    one = {"a": torch.ones(2)}
    assert_same_tensors(one, {"a": torch.ones(2)})
    with pytest.raises(AssertionError, match="differs"):
        assert_same_tensors(one, {"a": torch.tensor([1.0, 1.0 + 1e-6])})
    with pytest.raises(AssertionError, match="names"):
        assert_same_tensors(one, {"b": torch.ones(2)})


def test_moved_notices_what_moved_and_what_did_not() -> None:
    module = torch.nn.Linear(2, 2)
    before = copied(module)
    with torch.no_grad():
        module.bias += 1e-6
    assert moved(before, copied(module)) == {"bias"}
