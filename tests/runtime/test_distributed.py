"""Two processes and one come to the same end (tests/together.py is what each of the two does)."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from softprompt.backbones import load_backbone
from softprompt.errors import BadInput
from softprompt.runtime import distributed
from softprompt.runtime.launch import place
from softprompt.training import train
from softprompt.training.candidate import Candidate
from tests import tiny
from tests.compare import assert_close, assert_same_tensors
from tests.data_files import LINES
from tests.together import bank, ending, network, texts

pytestmark = pytest.mark.processes
RUN = ("--steps", "6", "--batch", "3", "--set", "evaluate_every=4", "--set", "length=3", "--seed", "3")


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder where two processes have left what they found."""
    folder = tmp_path_factory.mktemp("two")
    for name in ("llama", "t5"):
        tiny.save_tiny(name, folder / name)
    (folder / "rows.csv").write_text("\n".join(LINES))
    words = ["train", "--data", folder / "rows.csv", "--backbone", folder / "llama", "--output", folder / "run", *RUN]
    (folder / "words.json").write_text(json.dumps([str(word) for word in words]))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    told = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.together", str(folder)],
            env={**os.environ, **told, "RANK": str(i), "LOCAL_RANK": str(i)}, cwd=Path(__file__).parents[2],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for i in range(2)
    ]  # fmt: skip
    try:
        said = [process.communicate(timeout=900)[0] for process in started]
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [0, 0], "\n".join(said)
    (folder / "said.json").write_text(json.dumps(said))
    return folder


def found(two: Path, rank: int = 0) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((two / f"found-{rank}.json").read_text())
    return value


def assert_ended_as(two: Path, name: str, expected: list[Candidate], but: str = "-") -> None:
    """What two processes kept as `name` is the same in both, and what one process has found (`but`: names left out)."""
    assert_same_tensors(*(load_file(two / f"{name}-{rank}.safetensors") for rank in (1, 0)))  # type: ignore[arg-type]
    tensors, told = load_file(two / f"{name}-0.safetensors"), json.loads((two / f"{name}-0.json").read_text())
    for one in expected:
        for key, tensor in one.prompt.state_dict().items():
            if but not in key:
                assert_close(tensors[f"{one.name}/{key}"].float(), tensor.float(), 2e-4)
        alone, together = ending(one), told[one.name]
        assert together["stopped"] == alone["stopped"]
        assert together["best"]["step"] == alone["best"]["step"]
        assert together["best"]["value"] == alone["best"]["value"]
        for mine, theirs in zip(alone["history"], together["history"], strict=True):
            assert theirs.get("dev") == mine.get("dev")
            assert_close(theirs.get("loss", 0.0), mine.get("loss", 0.0), 2e-4)


@pytest.mark.parametrize("family", ["llama", "t5"])
def test_a_mixed_bank_ends_in_two_processes_as_in_one(two: Path, family: str) -> None:
    assert found(two)["device"] == "cpu"
    assert found(two)["count"] == 2
    assert_ended_as(two, family, bank(tiny.backbone(family)))


@pytest.mark.parametrize("family", ["llama", "t5"])
def test_a_sharded_backbone_trains_and_generates_as_a_whole_one(two: Path, family: str) -> None:
    whole = load_backbone(str(two / family))
    assert_ended_as(two, f"{family}-sharded", bank(whole))
    held = [found(two, rank)[f"{family} values"] for rank in (0, 1)]
    layers = sum(t.numel() for n, t in whole.model.named_parameters() if "layers." in n or "block." in n)
    outside = sum(t.numel() for t in whole.model.parameters()) - layers
    assert sum(held) == layers + 2 * outside, "each holds its part of the layers, and everything else"
    expected = texts(tiny.backbone(family))
    assert len({len(text.split()) for text in expected}) > 1, "answers end at different steps"
    for rank in (0, 1):
        assert found(two, rank)[f"{family} texts"] == expected
        assert found(two, rank)[f"{family} sharded texts"] == expected


def test_a_baseline_ends_in_two_processes_as_in_one_and_is_not_sharded(two: Path) -> None:
    # A bias of all keys shifts every score alike: its gradient is rounding, which AdamW makes as large as any.
    assert_ended_as(two, "network", network(tiny.backbone("bart")), but="k_proj.bias")
    assert "leave out --fsdp" in found(two)["baseline"].lower()


def test_one_process_that_runs_out_of_memory_takes_smaller_passes_or_ends_all(two: Path) -> None:
    assert_ended_as(two, "halved", bank(tiny.backbone("llama")))
    for rank in (0, 1):
        assert "does not fit in memory" in found(two, rank)["out of memory"]
        assert "differ in their data" in found(two, rank)["disagreement"]


def test_an_interrupt_of_one_process_ends_both_and_one_process_can_go_on(two: Path, tmp_path: Path) -> None:
    assert [found(two, rank)["exit"] for rank in (0, 1)] == [1, 1]
    first, second = json.loads((two / "said.json").read_text())
    assert "Interrupted after step 3" in first
    assert "; 2 processes" in first
    assert second == "", "only the first process speaks"
    assert not (two / "run" / "prompt.json").exists()
    resumed = train.resume([two / "run"])["prompt_tuning"]
    whole = train.train(
        data=two / "rows.csv", backbone=str(two / "llama"), output=tmp_path / "whole", steps=6, batch=3, seed=3,
        settings={"evaluate_every": 4, "length": 3},
    )["prompt_tuning"]  # fmt: skip
    assert_close(resumed.folded.prompt, whole.folded.prompt, 2e-4)
    assert resumed.card.scores == whole.card.scores
    assert resumed.card.best is not None
    assert whole.card.best is not None
    assert resumed.card.best["step"] == whole.card.best["step"]


@pytest.mark.parametrize(("sizes", "shares"), [
    ([1, 1, 1, 1, 1], [[0, 1, 2], [3, 4]]),
    ([9, 1, 1, 1, 1, 1, 1, 1, 1, 1], [[0], [1, 2, 3, 4, 5, 6, 7, 8, 9]]),
    ([5], [[0], []]),
    ([], [[], []]),
])  # fmt: skip
def test_shares_are_neighbours_about_as_large_as_each_other(
    sizes: list[int], shares: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distributed, "process_count", lambda: 2)
    for rank, expected in enumerate(shares):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        assert sorted(distributed.share(len(sizes), sizes.__getitem__)) == expected


def test_sharding_needs_several_processes_and_devices_are_not_shared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BadInput, match="accelerate launch"):
        train.train(task="support", backbone="no", output=tmp_path / "r", fsdp=True)
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert place() == (0, 0, 1), "no launcher has started this"
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("RANK", "3")
    assert place() == (3, 1, 4)
    with pytest.raises(BadInput, match="cuda:1 is one device"):
        distributed.join("cuda:1")
