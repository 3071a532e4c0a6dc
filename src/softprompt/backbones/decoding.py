"""Decode as the caller asks, whatever the model's own generation_config says."""

from torch import nn
from transformers import GenerationConfig

KEPT = (
    "bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id", "forced_bos_token_id",
    "forced_eos_token_id",
)  # fmt: skip
"""What a model's generation_config says of its tokens; all else in it is a choice of decoding."""


def decode_greedily(model: nn.Module) -> None:
    """Let `model.generate` decode greedily unless it is called with other options.

    A generation_config may ask for beams, sampling or a repetition penalty. They would make `predict` answer otherwise
    than a server, which takes no such options from the model, and scores depend on a file beside the weights.
    """
    own = getattr(model, "generation_config", None)
    if own is not None:
        model.generation_config = GenerationConfig(**{name: getattr(own, name, None) for name in KEPT})
