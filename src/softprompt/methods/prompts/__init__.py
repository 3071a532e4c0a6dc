"""How the learned rows are made: one file a way."""

from softprompt.methods.prompts.codebook import Codebook
from softprompt.methods.prompts.encoder import Encoder
from softprompt.methods.prompts.free import Free
from softprompt.methods.prompts.low_rank import LowRank
from softprompt.methods.prompts.multitask import Multitask
from softprompt.methods.prompts.random_projection import RandomProjection
from softprompt.methods.prompts.residual import Residual
from softprompt.methods.prompts.routed import Routed
from softprompt.methods.prompts.source_mixture import SourceMixture
from softprompt.methods.prompts.superposition import Superposition

__all__ = [
    "Codebook", "Encoder", "Free", "LowRank", "Multitask", "RandomProjection", "Residual", "Routed", "SourceMixture",
    "Superposition",
]  # fmt: skip
