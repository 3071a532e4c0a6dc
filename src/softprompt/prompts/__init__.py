"""How the learned rows are made: one file a way."""

from softprompt.prompts.attempt import SourceMixture
from softprompt.prompts.codebook import Codebook
from softprompt.prompts.encoder import Encoder
from softprompt.prompts.free import Free
from softprompt.prompts.low_rank import LowRank
from softprompt.prompts.multitask import Multitask
from softprompt.prompts.random_projection import RandomProjection
from softprompt.prompts.residual import Residual
from softprompt.prompts.routed import Routed
from softprompt.prompts.superposition import Superposition

__all__ = [
    "Codebook", "Encoder", "Free", "LowRank", "Multitask", "RandomProjection", "Residual", "Routed", "SourceMixture",
    "Superposition",
]  # fmt: skip
