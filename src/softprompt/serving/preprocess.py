"""From a client's words to what the engine reads: the prompt of a name, its template filled, tokens counted and cut.

A text is asked exactly as `softprompt predict` asks it with that prompt. One thread at a time does this: tokenizers
are not made for several.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from softprompt.backbones.placement import tokens_before
from softprompt.errors import BadInput
from softprompt.serving.engine.engine import Engine
from softprompt.serving.engine.sequence import Question, ranking
from softprompt.serving.limits import Limits
from softprompt.serving.prompt_store import PromptStore, Served
from softprompt.serving.store_folder import BASE
from softprompt.tasks import Example

TEXT_MEMORY = 16_000_000
"""Bytes of texts and their ids that are held, should they be asked again."""

Input = str | Mapping[str, Any]
"""A text, or the template's columns."""


class PreparedInput(NamedTuple):
    """One text as the engine reads it."""

    question: Question
    truncated: bool
    """The source lost tokens to the prompt's own limit."""
    max_tokens: int = 0
    choices: tuple[str, ...] = ()
    choice_ids: tuple[tuple[int, ...], ...] = ()


class Preprocessor:
    def __init__(self, engine: Engine, bank: PromptStore, limits: Limits) -> None:
        self.engine, self.backbone, self.bank, self.limits = engine, engine.backbone, bank, limits
        self.backbone.tokens.hold(TEXT_MEMORY)

    def to_generate(
        self, model: str, texts: Sequence[Input], *, raw: bool, max_tokens: int | None, default: int
    ) -> list[PreparedInput]:
        """Texts to continue, each by at most `max_tokens` (None: `default`).

        Beside them a source is cut to the backbone's positions; `predict` would let an answer run past those.
        """
        self._count(texts)
        if max_tokens is not None and max_tokens > self.limits.output_tokens:
            raise BadInput(f"max_tokens is {max_tokens}; this server gives at most {self.limits.output_tokens}.")
        served, most = self._served(model), max_tokens or min(default, self.limits.output_tokens)
        found = []
        for text in texts:
            question, cut = self._question(served, self._example(served, text, raw, ()), most)
            room = self.engine.batch.room(question)
            if room is not None and most > room:
                raise BadInput(
                    f"The answer may have {room} tokens and {most} were asked for ({self.backbone.name} has "
                    f"{self.backbone.context} positions). Lower max_tokens."
                )
            found.append(PreparedInput(question, cut, most))
        return found

    def to_rank(
        self, model: str, texts: Sequence[Input], *, raw: bool, choices: Sequence[str] | None
    ) -> list[PreparedInput]:
        """Texts whose choices are ranked: those given, or the prompt's own."""
        self._count(texts)
        served = self._served(model)
        named = tuple(choices or (served.card.choices if served else ()))
        if not named:
            own = (
                f"The prompt {model!r} answers in free text" if served else "Without a prompt nothing is to choose from"
            )
            raise BadInput(f'{own}; give the choices in the request: "choices": ["yes", "no"].')
        if len(named) > self.limits.choices:
            raise BadInput(f"{len(named)} choices; this server ranks at most {self.limits.choices}.")
        ids = self.backbone.tokens.choice_ids(named)
        longest = max(map(len, ids))
        if longest > self.limits.input_tokens:
            raise BadInput(f"A choice has {longest} tokens; at most {self.limits.input_tokens} are read.")
        found = []
        for text in texts:
            question, cut = self._question(served, self._example(served, text, raw, named), longest)
            found.append(PreparedInput(question, cut, 0, named, tuple(map(tuple, ids))))
        return found

    def _count(self, texts: Sequence[Input]) -> None:
        if not texts:
            raise BadInput("The request has no text; give at least one.")
        if len(texts) > self.limits.texts:
            raise BadInput(f"{len(texts)} texts in one request; at most {self.limits.texts}. Send several requests.")

    def _served(self, model: str) -> Served | None:
        return None if model == BASE else self.bank.get(model)

    def _example(self, served: Served | None, text: Input, raw: bool, choices: tuple[str, ...]) -> Example:
        if raw or served is None:
            if not isinstance(text, str):
                raise BadInput("Without a template an input is a text; got an object of columns.")
            return Example(text, choices=choices)
        form = served.template
        row = form.row(text) if isinstance(text, str) else {name: str(value) for name, value in text.items()}
        form.check(row)
        first = choices[0] if choices else ""
        return Example(form.source(row), first, form.cue, choices, answer_at=form.answer_at(row))

    def _question(self, served: Served | None, example: Example, target: int) -> tuple[Question, bool]:
        """The ids of a source beside `target` target tokens, and whether it was cut."""
        limit = self.limits.input_tokens
        tokens = len(self.backbone.tokens.encode(example.source + example.cue))
        if tokens > limit:
            raise BadInput(f"The input has {tokens} tokens; this server reads at most {limit}. Shorten it.")
        length = 0 if served is None else served.prompt.length
        most = limit if served is None else served.card.max_source
        ids, cut = self.backbone.tokens.source_ids(example, min(most, self._room(length, target, most)))
        if cut and served is None:
            raise BadInput(
                f"The input has {tokens} tokens; beside the answer {self.backbone.name} has room for {len(ids)}. "
                "Shorten it or lower max_tokens."
            )
        if not ids:
            raise BadInput("The input has no tokens; give some text.")
        if served is None:
            return Question(tuple(ids)), cut
        placement = served.card.placement
        before = tokens_before(ids, self.backbone.tokens.opening if placement == "after_bos" else [], placement)
        return Question(tuple(ids), served.prompt, served.entry.key, before), cut

    def _room(self, length: int, target: int, most: int) -> int:
        return most if self.backbone.context is None else self.backbone.room(length, target)


def ranked(asked: PreparedInput) -> Any:
    """The engine's form of an asked text's choices."""
    return ranking(asked.choice_ids)
