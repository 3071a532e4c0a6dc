"""One answer while it is generated: its tokens become text, until something ends it."""

import time
from dataclasses import dataclass, field

from softprompt.backbones import Backbone
from softprompt.serving.engine.detokenizer import TextStream
from softprompt.serving.engine.requests import Finish, Generate, Piece
from softprompt.serving.engine.sampler import SampledToken, Sampler


@dataclass(eq=False)
class Generation:
    """A generation in the running batch."""

    request: Generate
    sampler: Sampler
    stream: TextStream
    tokens: int = 0
    last: int = -1
    began: float = field(default_factory=time.monotonic)
    """When it had its first token."""
    finish: Finish | None = None

    def take(self, sampled: SampledToken, ends: frozenset[int]) -> None:
        """Take the next token, and deliver what it adds."""
        self.tokens, self.last = self.tokens + 1, sampled.token
        text = ""
        reported: tuple[SampledToken, ...] = () if sampled.logprob is None else (sampled,)
        constraint = self.sampler.constraint
        if sampled.token in ends:
            self.finish, reported = "stop", ()
        else:
            text = self.stream.add(sampled.token)
            self.finish = "length" if self.tokens >= self.request.max_tokens else None
            if constraint is not None and constraint.ended:
                self.finish = "stop"
        if self.finish:
            text += self.stream.end()
        if self.stream.stopped:
            self.finish = "stop"
        if text or reported or self.finish:
            self.request.deliver(Piece(text, reported, self.finish, self.tokens))


def end_tokens(backbone: Backbone) -> frozenset[int]:
    """List the ids that end a generated text, as transformers' generate reads them."""
    ids = getattr(getattr(backbone.model, "generation_config", None), "eos_token_id", None)
    return frozenset([ids] if isinstance(ids, int) else ids or [])
