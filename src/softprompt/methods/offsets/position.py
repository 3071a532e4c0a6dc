"""Share what all offsets by source position have: one row per position, and which rows training has reached."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from softprompt.errors import BadInput
from softprompt.methods.folded import Kind
from softprompt.methods.offsets.position_table import read
from softprompt.methods.soft_prompt import OffsetPart, Text


class PositionOffset(OffsetPart):
    """An offset for the first `positions` source tokens. Subclasses define `rows` and `by_position`.

    A row that no training input reached is still at its random start while what it is multiplied with is not,
    so it would add noise to longer inputs: it counts as zero outside training and when folded.
    """

    kind: Kind = "prompt+position"
    reached: Bool[Tensor, " s"]

    def __init__(self, positions: int) -> None:
        super().__init__()
        if positions < 1:
            raise BadInput(f"positions={positions}: an offset needs at least 1.")
        self.register_buffer("reached", torch.zeros(positions, dtype=torch.bool))

    def rows(self, s: int) -> Float[Tensor, "s d"]:
        """Compute the first s rows, reached or not."""
        raise NotImplementedError

    def by_position(self) -> nn.Parameter:
        """Return the tensor whose first dimension is the position."""
        raise NotImplementedError

    def forward(self, text: Text) -> Float[Tensor, "b s d"]:
        s = len(self.reached)
        if self.training:
            self.reached[text.position[(text.position >= 0) & (text.position < s)]] = True
        deepest = min(max(int(text.position.max()), 0) + 1, s)  # rows past it are not computed
        return read(self._reached_rows(deepest), text.position)

    def _reached_rows(self, s: int) -> Float[Tensor, "s d"]:
        return self.rows(s) * self.reached[:s].unsqueeze(-1)

    def start_from(self, tensors: dict[str, Tensor]) -> None:
        """Take the tensors that another run ended with; rows that it did not reach are zero until reached."""
        super().start_from(tensors)
        with torch.no_grad():
            # The other factor is no longer zero: a row still at its random start would add noise once reached.
            self.by_position()[~self.reached] = 0

    def fold(self) -> tuple[Tensor, int]:
        return self._reached_rows(len(self.reached)).detach().clone(), int((~self.reached).sum())
