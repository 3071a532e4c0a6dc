"""Let an answer be only what a grammar allows: JSON of a schema, a regular expression, one of some texts.

llguidance (https://github.com/guidance-ai/llguidance) computes which tokens may come next. Where the blanks at an
answer's ends are stripped, the answer may begin with one: that is how an answer follows a prompt's template.
"""

import json
import re
from collections.abc import Mapping, Sequence

import llguidance.hf
import torch
from llguidance import LLMatcher, LLTokenizer
from torch import Tensor

from softprompt.backbones import Backbone
from softprompt.errors import BadInput, first_line

JSON_OBJECT: Mapping[str, object] = {"type": "object"}


def json_grammar(schema: Mapping[str, object]) -> str:
    """Write the grammar of JSON texts that a schema allows."""
    return f'start: " "? json\njson: %json {json.dumps(schema)}'


def regex_grammar(pattern: str) -> str:
    """Write the grammar of what a regular expression matches as a whole."""
    return str(LLMatcher.grammar_from_regex(f" ?({pattern})"))


def choice_grammar(choices: Sequence[str]) -> str:
    """Write the grammar of texts, of which the answer is one."""
    return regex_grammar("|".join(re.escape(choice) for choice in choices))


class Constraint:
    """What may come next of one answer."""

    def __init__(self, matcher: LLMatcher, v: int) -> None:
        self._matcher, self._v = matcher, v

    def allowed(self) -> Tensor:
        """Return which tokens (v,) may come next."""
        packed = torch.frombuffer(bytearray(self._matcher.compute_bitmask()), dtype=torch.uint8)
        bits = (packed.unsqueeze(1) >> torch.arange(8, dtype=torch.uint8)) & 1
        return bits.flatten()[: self._v].bool()

    def accept(self, token: int) -> None:
        """Take the token that comes next."""
        self._matcher.consume_token(token)

    @property
    def ended(self) -> bool:
        """Whether the answer is whole: nothing but its end may follow."""
        return bool(self._matcher.is_stopped())


class Constraints:
    """Make constraints for the answers of a backbone. Any thread may."""

    def __init__(self, backbone: Backbone, ends: Sequence[int]) -> None:
        self._backbone, self._ends = backbone, list(ends)
        self._made: LLTokenizer | None = None

    @property
    def _tokenizer(self) -> LLTokenizer:
        if self._made is None:  # a third of a second for 49,152 tokens, for whoever asks first
            ends = self._ends or None
            try:
                self._made = llguidance.hf.from_tokenizer(self._backbone.tokenizer, self._backbone.v, ends)
            except Exception as error:  # noqa: BLE001  # whatever it says of a tokenizer that it cannot read
                raise BadInput(
                    f"Answers of {self._backbone.name} cannot be held to a format: what it needs of a tokenizer is "
                    f"missing ({first_line(error)})."
                ) from None
        return self._made

    def check(self, grammar: str) -> None:
        """Raise BadInput for a grammar that cannot be followed."""
        if wrong := LLMatcher.validate_grammar(grammar, self._tokenizer):
            raise BadInput(f"The grammar of the answer cannot be followed: {wrong.strip()[:300]}")

    def make(self, grammar: str) -> Constraint:
        """Begin an answer."""
        return Constraint(LLMatcher(self._tokenizer, grammar), self._backbone.v)
