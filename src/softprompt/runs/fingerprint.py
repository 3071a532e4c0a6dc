"""Fingerprint of a backbone: a prompt is used only on the embedding table and the network that it was trained for."""

import hashlib
import json
from collections.abc import Sequence

import torch
from pydantic import BaseModel, ConfigDict

from softprompt.backbones import Backbone
from softprompt.backbones.network_sample import sample_network

SAMPLED = 256
"""Entries of the table in a fingerprint."""


class Fingerprint(BaseModel):
    """The backbone that a prompt was trained on: sizes, hash and entries of its table, and some of its network's."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    v: int
    d: int
    dtype: str
    sha256: str
    """Hash of the table in bfloat16: equal whether the backbone is loaded in float32 or bfloat16."""
    sample: list[float]
    """Entries at fixed places, to compare with a table in float16, which rounds differently."""

    network: dict[str, list[float]] | None = None
    """A few entries of some of the network's tensors, in bfloat16 (softprompt.backbones.network_sample).

    None in cards of 0.1.0, and where each process holds a part of the network.
    """

    def agrees(self, other: "Fingerprint") -> bool:
        """Return whether both are of one table and, as far as both say, of one network, in any floating-point type."""
        if (self.v, self.d) != (other.v, other.d):
            return False
        exact = "float16" not in (self.dtype, other.dtype)
        same = self.sha256 == other.sha256 if exact else _close(self.sample, other.sample)
        mine, others = self.network or {}, other.network or {}
        # Weights that are quantised are in no sample, so only what both have is compared.
        shared = [(mine[name], others[name]) for name in mine.keys() & others.keys()]
        return same and all(one == two if exact else _close(one, two) for one, two in shared)

    def short(self) -> str:
        """Format sizes and hashes for a message."""
        network = ""
        if self.network is not None:
            network = f", network {hashlib.sha256(json.dumps(self.network).encode()).hexdigest()[:8]}"
        return f"v={self.v}, d={self.d}, table {self.sha256[:8]}{network}"


def fingerprint(backbone: Backbone) -> Fingerprint:
    """Compute the fingerprint of a backbone: all of its embedding table (v, d), and a sample of its network."""
    table = backbone.embedding.weight.detach()
    rounded = table.to(torch.bfloat16).cpu().contiguous().view(torch.int16).numpy()
    flat = table.flatten()
    places = torch.linspace(0, flat.numel() - 1, SAMPLED, dtype=torch.float64).long().to(flat.device)
    return Fingerprint(
        v=table.shape[0],
        d=table.shape[1],
        dtype=str(table.dtype).removeprefix("torch."),
        sha256=hashlib.sha256(rounded.tobytes()).hexdigest(),
        network=None if backbone.sharded else sample_network(backbone.model, backbone.embedding.weight),
        sample=[float(f"{value:.6g}") for value in flat[places].float().tolist()],
    )


def _close(mine: Sequence[float], others: Sequence[float]) -> bool:
    same = len(mine) == len(others) > 0
    return same and bool(torch.allclose(torch.tensor(mine), torch.tensor(others), rtol=2**-7, atol=1e-6))
