"""Training shows what happens: lines, or bars on a terminal."""

import io

import pytest
from rich.console import Console

from softprompt.training.loop import tune
from softprompt.training.progress import TrainingView
from tests import tiny
from tests.candidates import candidate


@pytest.mark.parametrize("terminal", [False, True])
def test_an_evaluation_before_the_first_step_is_shown(terminal: bool) -> None:
    backbone, text = tiny.backbone("llama"), io.StringIO()
    one = candidate(backbone, "prompt_tuning", steps=6, evaluate_every=3, evaluate_at_start=True)
    console = Console(file=text, force_terminal=terminal, width=100)
    with TrainingView(console, [one.name]) as view:
        tune(backbone, [one], listener=view)
    said = text.getvalue()
    assert "nan" not in said
    if not terminal:
        first, *_, last = said.splitlines()
        assert first.split()[:3] == [one.name, "step", "0/6"]
        assert "loss" not in first
        assert "ETA" not in first
        assert "dev" in first
        assert last.endswith("ETA 0:00")
