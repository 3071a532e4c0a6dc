"""Fingerprint of a backbone's embedding table: a prompt is used only on the backbone that it was trained for."""

import hashlib

import torch
from pydantic import BaseModel, ConfigDict

from softprompt.backbones import Backbone

SAMPLED = 256
"""Entries of the table in a fingerprint."""


class Fingerprint(BaseModel):
    """The embedding table that a prompt was trained on: its sizes, hash and some of its entries."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    v: int
    d: int
    dtype: str
    sha256: str
    """Hash of the table in bfloat16: equal whether the backbone is loaded in float32 or bfloat16."""
    sample: list[float]
    """Entries at fixed places, to compare with a table in float16, which rounds differently."""

    def agrees(self, other: "Fingerprint") -> bool:
        """Return whether both are of one table, in any floating-point type."""
        if (self.v, self.d) != (other.v, other.d):
            return False
        if "float16" not in (self.dtype, other.dtype):
            return self.sha256 == other.sha256
        mine, others = torch.tensor(self.sample), torch.tensor(other.sample)
        return bool(torch.allclose(mine, others, rtol=2**-7, atol=1e-6))

    def short(self) -> str:
        """Format sizes and hash for a message."""
        return f"v={self.v}, d={self.d}, table {self.sha256[:8]}"


def fingerprint(backbone: Backbone) -> Fingerprint:
    """Compute the fingerprint of a backbone's embedding table (v,d)."""
    table = backbone.embedding.weight.detach()
    rounded = table.to(torch.bfloat16).cpu().contiguous().view(torch.int16).numpy()
    flat = table.flatten()
    places = torch.linspace(0, flat.numel() - 1, SAMPLED, dtype=torch.float64).long().to(flat.device)
    return Fingerprint(
        v=table.shape[0],
        d=table.shape[1],
        dtype=str(table.dtype).removeprefix("torch."),
        sha256=hashlib.sha256(rounded.tobytes()).hexdigest(),
        sample=[float(f"{value:.6g}") for value in flat[places].float().tolist()],
    )
