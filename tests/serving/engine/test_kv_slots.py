"""The memory of slots: what lasts stays, and a block is as large as what stands in it wants."""

import torch

from softprompt.serving.engine.kv_slots import Slots


def fill(slots: Slots, rows: int, columns: int) -> torch.Tensor:
    slots.reserve(rows, columns)
    values = torch.randn(rows, 2, columns, 4)
    slots.fill(0, 0, 0, values, values)
    return values


def test_one_long_sequence_does_not_widen_the_slots_of_all_that_there_once_were() -> None:
    slots = Slots(1)
    values = fill(slots, 32, 60)
    slots.reserve(2, 4096)  # two of them are left, and one is long
    assert slots.data is not None
    assert slots.data.shape[2] * slots.data.shape[4] <= 2 * 2 * 4096
    assert torch.equal(slots.data[0, 0, :2, :, :60], values[:2])
    slots.reserve(32, 100)  # it has left, and others have come
    assert slots.data.shape[2] * slots.data.shape[4] <= 2 * 32 * 128
    assert torch.equal(slots.data[0, 0, :2, :, :60], values[:2])
    assert not slots.data[0, 0, 2:].any()


def test_a_block_grows_with_what_stands_in_it() -> None:
    slots = Slots(1)
    values = fill(slots, 3, 40)
    for rows, columns in ((4, 40), (4, 90), (9, 90)):
        slots.reserve(rows, columns)
        assert slots.data is not None
        assert slots.data.shape[2] >= rows
        assert slots.data.shape[4] >= columns
        assert torch.equal(slots.data[0, 1, :3, :, :40], values)
