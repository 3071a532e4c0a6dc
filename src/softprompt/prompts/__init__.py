"""How the learned rows are made: one file a way."""

from softprompt.prompts.encoder import Encoder
from softprompt.prompts.free import Free
from softprompt.prompts.low_rank import LowRank
from softprompt.prompts.multitask import Multitask
from softprompt.prompts.random_projection import RandomProjection
from softprompt.prompts.residual import Residual
from softprompt.prompts.superposition import Superposition

__all__ = ["Encoder", "Free", "LowRank", "Multitask", "RandomProjection", "Residual", "Superposition"]
