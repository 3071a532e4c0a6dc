"""How the learned rows are made: one file a way."""

from softprompt.prompts.attempt import SourceMixture
from softprompt.prompts.codebook import Codebook
from softprompt.prompts.free import Free
from softprompt.prompts.routed import Routed
from softprompt.prompts.superposition import Superposition

__all__ = ["Codebook", "Free", "Routed", "SourceMixture", "Superposition"]
