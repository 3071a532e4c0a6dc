"""An exporter from outside the package: one function and one call."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

import softprompt
from softprompt.errors import BadInput, UnknownName
from softprompt.runs.formats.registry import EXPORTERS, BackboneFacts, register_exporter
from softprompt.runs.prompt import Prompt
from tests import tiny
from tests.candidates import finished


def write_mine(prompt: Prompt, backbone: BackboneFacts, folder: Path) -> Sequence[str]:
    """Write the rows as text."""
    folder.mkdir()
    rows = prompt.folded.prompt.tolist()
    (folder / "rows.txt").write_text(f"{backbone.kind} {backbone.d} {len(rows)}\n")
    return ["it is only text"]


@pytest.fixture
def mine() -> Iterator[None]:
    register_exporter("mine", write_mine)
    yield
    del EXPORTERS["mine"]


@pytest.mark.usefixtures("mine")
def test_a_prompt_is_exported_by_a_function_of_another_package(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    finished(tmp_path / "run", "prompt_tuning")
    place = tiny.save_tiny("llama", tmp_path / "model")
    made = softprompt.export_prompt(tmp_path / "run", tmp_path / "out", to="mine", backbone=place)
    assert (made.format, made.folder, made.notes) == ("mine", tmp_path / "out", ("it is only text",))
    assert (made.folder / "rows.txt").read_text().startswith(f"causal {tiny.D} ")
    assert "note: it is only text" in capsys.readouterr().err
    assert made.as_json() == {
        "name": made.name, "format": "mine", "folder": str(tmp_path / "out"), "notes": ["it is only text"],
    }  # fmt: skip
    assert repr(made) == f"Export({made.name!r}, mine, {str(tmp_path / 'out')!r})"
    with pytest.raises(BadInput, match="already a format named 'mine'"):
        register_exporter("mine", write_mine)


def test_without_it_the_name_is_unknown(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match=r"Unknown format 'mine'.* Known: peft, vllm\."):
        softprompt.export_prompt(tmp_path, tmp_path / "out", to="mine")
