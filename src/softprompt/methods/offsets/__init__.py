"""What is added to the token embeddings of the source: one file a way."""

from softprompt.methods.offsets.position_codebook import PositionCodebook
from softprompt.methods.offsets.position_low_rank import Budget, PositionLowRank, solve_budget
from softprompt.methods.offsets.position_table import PositionTable
from softprompt.methods.offsets.token_network import TokenNetwork, second_table

__all__ = [
    "Budget",
    "PositionCodebook",
    "PositionLowRank",
    "PositionTable",
    "TokenNetwork",
    "second_table",
    "solve_budget",
]
