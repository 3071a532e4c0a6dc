"""A folded position offset: one row a source position, no longer trained."""

from jaxtyping import Float
from torch import Tensor, nn

from softprompt.methods.folded import Kind
from softprompt.methods.soft_prompt import OffsetPart, Text


class PositionTable(OffsetPart):
    """An offset read from `table` (s,d)."""

    kind: Kind = "prompt+position"

    def __init__(self, table: Float[Tensor, "s d"]) -> None:
        super().__init__()
        self.register_buffer("table", table)

    def forward(self, text: Text) -> Float[Tensor, "b s d"]:
        return read(self.buffer(), text.position)

    def buffer(self) -> Tensor:
        """Return the table (s,d)."""
        table = self.table
        assert isinstance(table, Tensor)
        return table

    def groups(self) -> dict[str, list[nn.Parameter]]:
        return {}

    def fold(self) -> tuple[Tensor, int]:
        return self.buffer().clone(), 0


def read(table: Float[Tensor, "rows d"], position: Tensor) -> Float[Tensor, "b s d"]:
    """Read the rows of `table` at `position` (b, s); zero where the position is -1 or past the table."""
    inside = (position >= 0) & (position < table.shape[0])
    return table[position.masked_fill(~inside, 0)] * inside.unsqueeze(-1)
