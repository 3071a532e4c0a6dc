"""Finished runs whose prompts another one mixes, written without training."""

import tempfile
from functools import cache
from pathlib import Path

import torch

from softprompt.backbones import Backbone
from softprompt.methods.folded import Folded
from softprompt.runs.fingerprint import fingerprint
from softprompt.runs.prompt import Prompt, PromptCard
from softprompt.runs.run_folder import versions

LENGTH, COUNT = 3, 2
_KEPT = tempfile.TemporaryDirectory()


@cache
def _written(name: str, backbone: Backbone) -> list[str]:
    return [write_source(Path(_KEPT.name) / name / str(i), backbone, seed=i) for i in range(COUNT)]


def sources_for(backbone: Backbone) -> list[str]:
    """Folders of two runs of `LENGTH` rows on `backbone`."""
    return _written(backbone.name, backbone)


def write_source(folder: Path, backbone: Backbone, length: int = LENGTH, seed: int = 0) -> str:
    """A finished run of free rows in `folder`."""
    rows = torch.randn(length, backbone.d, generator=torch.Generator().manual_seed(seed))
    card = PromptCard(
        name=f"source-{seed}", kind="prompt", method="prompt_tuning", options={"length": length},
        backbone=backbone.name, fingerprint=fingerprint(backbone), length=length, positions=None, zeroed=0,
        max_source=256, task="tiny", template="{text}", choices=[], label=None, words=None, metrics=["accuracy"],
        trainable=rows.numel(), stored=rows.numel(), seed=seed, scores={}, best=None, stopped=None,
        versions=versions(),
    )  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    Prompt(card, Folded("prompt", rows)).save(folder)
    return str(folder)
