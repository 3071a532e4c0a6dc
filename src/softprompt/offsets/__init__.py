"""What is added to the token embeddings of the source: one file a way."""

from softprompt.offsets.position_low_rank import Budget, PositionLowRank, solve_budget
from softprompt.offsets.position_table import PositionTable

__all__ = ["Budget", "PositionLowRank", "PositionTable", "solve_budget"]
