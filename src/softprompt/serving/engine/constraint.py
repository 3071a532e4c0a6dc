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
from llguidance._tokenizer import TokenizerWrapper  # the only way to give it a tokenizer of one's own
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
            try:
                self._made = _read_tokenizer(self._backbone, self._ends)
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


ANCHORS = (":", "a", "1")
"""Texts, of which one at least does not grow together with what follows it."""


class _Pieces:
    """A SentencePiece tokenizer as llguidance reads one: the bytes that each token writes."""

    def __init__(self, backbone: Backbone, ends: Sequence[int]) -> None:
        tokenizer = backbone.tokenizer
        self._tokenizer = tokenizer
        self.eos_token_id, self.bos_token_id = ends[0], None
        pieces = [str(piece) for piece in tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))]
        self.special_token_ids = [i for i, piece in enumerate(pieces) if piece in tokenizer.all_special_tokens]
        self.tokens = [_bytes_of(piece) for piece in pieces] + [b""] * (backbone.v - len(pieces))

    def __call__(self, text: bytes) -> list[int]:
        """Tokenize what goes on: after an anchor, as the start of a text would get a blank of its own."""
        for anchor in ANCHORS:
            before, whole = self._ids(anchor), self._ids(anchor + text.decode("utf-8", "replace"))
            if whole[: len(before)] == before:
                return whole[len(before) :]
        return []

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer(text, add_special_tokens=False).input_ids
        return ids


def _bytes_of(piece: str) -> bytes:
    byte = re.fullmatch("<0x([0-9A-F]{2})>", piece)
    return bytes.fromhex(byte[1]) if byte else piece.replace("\u2581", " ").encode()


def _read_tokenizer(backbone: Backbone, ends: Sequence[int]) -> LLTokenizer:
    decoder = backbone.tokenizer.backend_tokenizer.decoder
    if ends and type(decoder).__name__ == "Metaspace":  # which llguidance 1.9.1 does not read by itself
        return LLTokenizer(TokenizerWrapper(_Pieces(backbone, ends)), n_vocab=backbone.v, eos_token=list(ends))
    return llguidance.hf.from_tokenizer(backbone.tokenizer, backbone.v, list(ends) or None)
