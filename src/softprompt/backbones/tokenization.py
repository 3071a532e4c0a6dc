"""Turn texts and examples into token ids, the way a family of backbones reads them."""

from collections.abc import Sequence
from functools import cached_property

from transformers import PreTrainedTokenizerBase

from softprompt.backbones.families import Family
from softprompt.backbones.token_cache import TextIds
from softprompt.errors import BadInput
from softprompt.tasks.task import Example, Scoring

MOST_CHOICES = 10_000
"""Sets of choices whose ids are held in memory."""


class Tokenization:
    """Token ids of sources, targets and choices. Subclasses say what a family reads otherwise.

    Args:
        tokenizer: A tokenizer of transformers.
        family: The family of the backbone.
        name: The backbone's, for messages.
        max_source: Most source tokens that are read of an example.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, family: Family, name: str, max_source: int) -> None:
        self.tokenizer, self.family, self.name, self.max_source = tokenizer, family, name, max_source
        self.whole, self.parts = TextIds(tokenizer), TextIds(tokenizer, special=False)
        self._choice_ids: dict[tuple[tuple[str, ...], bool], list[list[int]]] = {}
        self._table: int | None = None

    def __call__(self, text: str) -> list[int]:
        """Return the ids of `text` without special tokens. Raises BadInput for a token that the model does not have."""
        return self._known(self.parts(text), text)

    def encode(self, text: str) -> list[int]:
        """Return the ids of `text` with the special tokens that the tokenizer puts around it. Raises BadInput, too."""
        return self._known(self.whole(text), text)

    def check_against(self, v: int) -> None:
        """Refuse ids from now on that a table of `v` rows does not have, where the tokenizer has such tokens.

        An id past the table would be a row of somebody's prompt.
        """
        self._table = v if len(self.tokenizer) > v else None

    def _known(self, ids: list[int], text: str) -> list[int]:
        if self._table is not None and (past := [i for i in ids if i >= self._table]):
            token = self.tokenizer.convert_ids_to_tokens(past[0])
            raise BadInput(
                f"The text {text[:60]!r} has the token {token!r} ({past[0]}), and the embedding table of {self.name} "
                f"ends at {self._table - 1}: a token was added to the tokenizer and not to the model. Resize the model "
                "(resize_token_embeddings) and save it, or leave the token out of the text."
            )
        return ids

    # Memory of ids

    def remember(self) -> None:
        """Keep ids on disk, and look for them there first (softprompt.backbones.token_cache)."""
        self.whole.remember()
        self.parts.remember()

    def hold(self, most: int) -> None:
        """Hold about `most` bytes of texts and their ids in memory, and no more."""
        self.whole.most = self.parts.most = most

    def keep(self) -> None:
        """Write to disk what is new there, after `remember`."""
        self.whole.keep()
        self.parts.keep()

    def read_sources(self, examples: Sequence[Example]) -> None:
        """Tokenize the sources of examples in one call: half the time of one by one."""
        self.whole.read(example.source + example.cue for example in examples)

    def read_targets(self, examples: Sequence[Example]) -> None:
        """Tokenize free-text targets in one call; choices are cached by `choice_ids`."""
        self.parts.read(self.continued(e.target, e.cue) for e in examples if e.target not in e.choices)

    # Sources

    def source_ids(self, example: Example, room: int) -> tuple[list[int], bool]:
        """Return the ids of the source and its cue, at most `room` of them, and whether any were cut.

        The cut falls on the source's end, before the cue, so a template keeps its last words. Raises BadInput where
        the cue leaves no room for the source.
        """
        self.check_example(example)
        ids = self.encode(example.source + example.cue)
        if len(ids) <= room:
            return ids, False
        cue = self(example.cue) + self.closing()
        kept = room - len(cue)
        if kept < max(1, len(self.opening)):
            raise BadInput(f"A source limit of {room} tokens leaves no room beside the cue {example.cue!r}.")
        start = self.encode(example.source)
        return start[: min(kept, len(start) - len(self.closing()))] + cue, True

    def size(self, example: Example, *, targets: bool) -> int:
        """Count the tokens of an example: its source as it is read and, with `targets`, its target."""
        source = min(len(self.encode(example.source + example.cue)), self.max_source)
        return source + (len(self.target_ids(example)) if targets else 0)

    def check_example(self, example: Example, scoring: Scoring = "ranked") -> None:
        """Raise BadInput when the family cannot answer such an example, or its answers not be scored so."""
        mask = example.answer_at is not None
        self.family.check_examples(self.name, choices=example.choices, mask=mask, scoring=scoring)

    @cached_property
    def opening(self) -> list[int]:
        """Special tokens that the tokenizer puts at the start of a source."""
        whole, bare = self.encode(":"), self(":")
        starts = [i for i in range(len(whole)) if whole[i : i + len(bare)] == bare]
        return whole[: starts[0]] if bare and starts else []

    def closing(self) -> list[int]:
        """Return the special tokens that the tokenizer puts at the end of a source."""
        return []

    # Targets and choices

    def target_ids(self, example: Example) -> list[int]:
        """Return the ids of an example's target as it is learned: the text and the end-of-sequence token."""
        return [*self._cut(example, example.target), self.eos()]

    def golds(self, example: Example) -> tuple[str, ...]:
        """Return the right answers of an example as they are scored: cut where it says so, otherwise as written."""
        if example.answer_limit is None:
            return example.golds()
        cut = [self._cut(example, gold) for gold in example.golds()]
        return tuple(str(self.tokenizer.decode(ids, skip_special_tokens=True)).strip() for ids in cut)

    def _cut(self, example: Example, answer: str) -> list[int]:
        ids = self.continuation(answer, example.cue)
        return ids if example.answer_limit is None else ids[: example.answer_limit - 1]

    def choice_ids(self, choices: Sequence[str], cue: str = "") -> list[list[int]]:
        """Return the ids of each choice as it is scored after `cue`, the end of its source.

        Raises BadInput for a choice without tokens and for two with the same tokens.
        """
        key = (tuple(choices), self.begins_turn(cue))
        if len(self._choice_ids) > MOST_CHOICES:  # a server's clients may name any
            self._choice_ids = {}
        if key not in self._choice_ids:  # every example of a task asks again, and comparing all pairs is not free
            self._choice_ids[key] = self._checked_choice_ids(key[0], cue)
        return self._choice_ids[key]

    def _checked_choice_ids(self, choices: tuple[str, ...], cue: str) -> list[list[int]]:
        ids = [self.continuation(choice, cue) for choice in choices]
        for choice, tokens in zip(choices, ids, strict=True):
            if not tokens:
                raise BadInput(
                    f"The choice {choice!r} has no tokens for {self.name}; give it a label word that can be written."
                )
        for i, one in enumerate(ids):
            for j, other in enumerate(ids):
                if i != j and one == other:
                    raise BadInput(
                        f"The choices {choices[i]!r} and {choices[j]!r} are the same tokens for {self.name}."
                    )
        return self.separate(ids)

    def separate(self, ids: list[list[int]]) -> list[list[int]]:
        """End all choices with end-of-sequence where one of them begins another: the shorter could never lose."""
        nested = any(a is not b and b[: len(a)] == a for a in ids for b in ids)
        return [[*tokens, self.eos()] for tokens in ids] if nested else ids

    def continuation(self, text: str, cue: str = "") -> list[int]:
        """Return the ids of `text` as it continues a source that ends with `cue`."""
        return self(self.continued(text, cue))

    def continued(self, text: str, cue: str = "") -> str:
        """Return what the tokenizer is given for a continuation."""
        return text

    def begins_turn(self, cue: str) -> bool:
        """Tell whether an answer after `cue` begins a turn of a chat, so that no space stands before it."""
        return False

    def eos(self) -> int:
        """Return the id of end-of-sequence. Raises BadInput for a tokenizer without one."""
        eos: int | None = self.tokenizer.eos_token_id
        if eos is None:
            raise BadInput(f"The tokenizer of {self.name} has no end-of-sequence token, so a target cannot end.")
        return eos
