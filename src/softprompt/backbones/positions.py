"""Read how many positions a model has off its config, or that nothing limits them."""

from transformers import PreTrainedConfig


def position_limit(config: PreTrainedConfig) -> int | None:
    """Return the positions of the stack that reads soft tokens and source; None where nothing limits them.

    Of an encoder-decoder that is the encoder, of a model of images and text its text part. Relative positions (T5) and
    ALiBi have no limit, whatever else the config says: T5's n_positions is the length of its pretraining.
    """
    stack = config.get_text_config(encoder=True) if config.is_encoder_decoder else config.get_text_config()
    inner = getattr(config, "encoder", None)
    if not hasattr(stack, "max_position_embeddings") and isinstance(inner, PreTrainedConfig):  # T5Gemma: two stacks
        stack = inner.get_text_config()
    if getattr(stack, "alibi", False):
        return None
    limit: int | None = getattr(stack, "max_position_embeddings", None)
    if limit is None and not hasattr(stack, "relative_attention_num_buckets"):
        limit = getattr(stack, "n_positions", None)
    return limit if limit and limit > 0 else None  # XLNet writes -1
