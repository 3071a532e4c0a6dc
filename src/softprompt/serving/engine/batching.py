"""How much the engine computes at a time."""

from dataclasses import dataclass
from typing import TypedDict, Unpack

import torch

from softprompt.evaluation.evaluate import pass_tokens


class BatchingSettings(TypedDict, total=False):
    """Fields of `Batching` to set; None: as suits the device."""

    rows: int | None
    tokens: int | None
    pass_tokens: int | None
    wait: float
    queue: int
    cache: int


@dataclass(frozen=True)
class Batching:
    """How much is computed at a time."""

    rows: int
    """Most generations that run together."""
    tokens: int
    """Most tokens that running generations hold keys and values of: rows times the longest row."""
    pass_tokens: int
    """Most tokens that are read at a time."""
    wait: float = 0.004
    """Seconds that the first of a batch waits for others."""
    queue: int = 1024
    """Most requests that wait."""
    cache: int = 1_000_000_000
    """Most bytes of prompts' keys and values."""

    @classmethod
    def on(cls, device: torch.device, **settings: Unpack[BatchingSettings]) -> "Batching":
        """Choose what suits a device where `settings` do not say."""
        cpu = device.type == "cpu"
        return cls(
            rows=settings.get("rows") or (32 if cpu else 128),
            tokens=settings.get("tokens") or (8192 if cpu else 131072),
            pass_tokens=settings.get("pass_tokens") or pass_tokens(device),
            wait=settings.get("wait", cls.wait),
            queue=settings.get("queue", cls.queue),
            cache=settings.get("cache", cls.cache),
        )
