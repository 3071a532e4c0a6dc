"""No more threads than cores are free, unless the user says how many."""

import warnings
from pathlib import Path

import psutil
import pytest
import torch

from softprompt.runtime import threads
from softprompt.runtime.threads import cpu_quota, settle_threads


@pytest.fixture(autouse=True)
def _machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight cores, all idle, and a process that has looked at nothing yet."""
    monkeypatch.setattr(threads, "_settled", False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(psutil, "cpu_count", lambda: 8)
    monkeypatch.setattr(threads, "cpu_quota", lambda: None)
    count = [8]
    monkeypatch.setattr(torch, "get_num_threads", lambda: count[0])
    monkeypatch.setattr(torch, "set_num_threads", lambda n: count.__setitem__(0, n))
    use(monkeypatch, 0)


def use(monkeypatch: pytest.MonkeyPatch, cores: float) -> None:
    monkeypatch.setattr(psutil, "cpu_percent", lambda interval: 100 * cores / 8)


@pytest.mark.parametrize(("cores", "left"), [(0.5, 8), (1.0, 7), (2.2, 6), (6, 2), (8, 1), (20, 1)])
def test_threads_are_as_many_as_cores_are_free(cores: float, left: int, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, cores)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        settle_threads()
        settle_threads()  # looked at once
    assert torch.get_num_threads() == left
    assert [f"{left} of 8 threads" in str(one.message) for one in said] == [True] * (left < 8)


@pytest.mark.parametrize(("quota", "left"), [(0.5, 1), (2.0, 2), (3.7, 3), (16.0, 8)])
def test_a_containers_quota_counts(quota: float, left: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "cpu_quota", lambda: quota)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        settle_threads()
    assert torch.get_num_threads() == left
    assert all("container may use" in str(one.message) for one in said)


def test_what_the_user_says_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, 8)
    settle_threads(5)
    settle_threads()
    assert torch.get_num_threads() == 5
    monkeypatch.setattr(threads, "_settled", False)
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    settle_threads()
    assert torch.get_num_threads() == 5
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setenv("WORLD_SIZE", "2")
    settle_threads()
    assert torch.get_num_threads() == 5


def test_quotas_of_both_versions_are_read(tmp_path: Path) -> None:
    assert cpu_quota(tmp_path) is None
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("-1\n")
    assert cpu_quota(tmp_path) is None
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("250000\n")
    assert cpu_quota(tmp_path) == 2.5
    (tmp_path / "cpu.max").write_text("150000 100000\n")
    assert cpu_quota(tmp_path) == 1.5
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert cpu_quota(tmp_path) is None
