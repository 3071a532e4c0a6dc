"""Files are written whole, and readable by whom the umask says."""

import os
import stat
from pathlib import Path

import pytest
import torch

from softprompt.runtime.files import write_json, write_tensors


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_tensors_are_as_readable_as_other_files(umask: int, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        write_tensors(tmp_path / "one.safetensors", {"a": torch.zeros(2)}, {})
        write_json(tmp_path / "one.json", {})
    finally:
        os.umask(before)
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o666 & ~umask}
