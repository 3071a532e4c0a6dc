"""Hidden states that stand in for what a part of a network returns."""

from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions


class States(BaseModelOutputWithPastAndCrossAttentions):  # type: ignore[misc]
    """Hidden states in the place of a base model's or an encoder's output.

    All else that the next part may look for is None: the logits of a router, the states of images.
    """

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)
