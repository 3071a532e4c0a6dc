"""What was found out is kept on disk, and a memory that cannot be used stays empty."""

from pathlib import Path

import pytest

from softprompt.backbones import found_out
from softprompt.backbones.found_out import recall, remember


def test_what_is_remembered_is_recalled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(found_out, "cache_folder", lambda: tmp_path)
    assert recall("kernels", "a") == {}
    remember("kernels", "a", {"shape": ["torch", "packed"]})
    assert recall("kernels", "a") == {"shape": ["torch", "packed"]}
    assert recall("checks", "a") == recall("kernels", "b") == {}


@pytest.mark.parametrize("text", ["", "{", "[1]", "3"])
def test_a_damaged_file_is_an_empty_memory(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(found_out, "cache_folder", lambda: tmp_path)
    remember("kernels", "a", {"b": 1})
    (tmp_path / "kernels" / "a.json").write_text(text)
    assert recall("kernels", "a") == {}


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(found_out, "cache_folder", lambda: tmp_path / "file")
    remember("kernels", "a", {"b": 1})
    assert recall("kernels", "a") == {}
