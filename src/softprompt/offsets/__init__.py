"""What is added to the token embeddings of the source: one file a way."""

from softprompt.offsets.position_codebook import PositionCodebook
from softprompt.offsets.position_low_rank import Budget, PositionLowRank, solve_budget
from softprompt.offsets.position_table import PositionTable
from softprompt.offsets.token_network import TokenNetwork, second_table

__all__ = [
    "Budget",
    "PositionCodebook",
    "PositionLowRank",
    "PositionTable",
    "TokenNetwork",
    "second_table",
    "solve_budget",
]
