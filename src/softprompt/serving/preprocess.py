"""Turn request texts into token sequences: look up the prompt, fill its template, tokenize, truncate.

A text is prepared exactly as `softprompt predict` does it with that prompt. One thread at a time does this: tokenizers
are not made for several.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from softprompt.backbones.chat import read_chat
from softprompt.backbones.families import BACKBONE_FAMILIES
from softprompt.backbones.placement import tokens_before
from softprompt.errors import BadInput
from softprompt.serving.engine.engine import Engine
from softprompt.serving.engine.ranking import Ranking, plan_ranking
from softprompt.serving.engine.sequence import Question
from softprompt.serving.limits import Limits
from softprompt.serving.prompt_store import LoadedPrompt, PromptStore
from softprompt.serving.store_folder import BASE
from softprompt.tasks import Example
from softprompt.tasks.chat import Chat, Turn
from softprompt.tasks.known_shapes import CONVERSATION, read_text

TEXT_MEMORY = 16_000_000
"""Bytes of texts and their ids that are kept, in case they come again."""

Columns = Mapping[str, str | int | float | bool]
"""A value for each column of a template."""
Input = str | Columns
Source = Input | Sequence[int]
"""A text, columns, or token ids, which are taken as they are."""


class PreparedInput(NamedTuple):
    """One text as the engine reads it."""

    question: Question
    truncated: bool
    """The source lost tokens to the prompt's own limit."""
    max_tokens: int = 0
    choices: tuple[str, ...] = ()
    choice_ids: tuple[tuple[int, ...], ...] = ()

    @property
    def ranking(self) -> Ranking:
        """How the choices are scored."""
        return plan_ranking(self.choice_ids)


@dataclass(frozen=True)
class BackboneInfo:
    """What is said of a backbone."""

    name: str
    kind: str
    dtype: str
    device: str
    hidden_size: int
    vocabulary: int
    context: int | None
    parameters: int


class Preprocessor:
    """Prepare texts for an engine and the prompts of a store."""

    def __init__(self, engine: Engine, store: PromptStore, limits: Limits) -> None:
        self.engine, self.backbone, self.store, self.limits = engine, engine.backbone, store, limits
        self.backbone.tokens.hold(TEXT_MEMORY)

    def load(self, model: str) -> LoadedPrompt | None:
        """Load the prompt that `model` names; None for "base"."""
        return None if model == BASE else self.store.get(model)

    def prepare_generation(
        self,
        prompt: LoadedPrompt | None,
        texts: Sequence[Source],
        *,
        raw: bool,
        max_tokens: int | None,
        default: int,
    ) -> Iterator[PreparedInput]:
        """Prepare texts to continue, one after another.

        A source is cut so that it and the answer fit the backbone's positions; `predict` would let an answer run past
        them.

        Args:
            prompt: That of `load`.
            texts: Texts, or columns of the prompt's template.
            raw: Take texts as they are, without the template; token ids always are.
            max_tokens: Most tokens of each answer; None: `default`, or fewer where the server's limit is lower.
            default: See `max_tokens`.
        """
        self._check_count(texts)
        if max_tokens is not None and max_tokens > self.limits.output_tokens:
            raise BadInput(f"max_tokens is {max_tokens}; this server gives at most {self.limits.output_tokens}.")
        most = min(default, self.limits.output_tokens) if max_tokens is None else max_tokens
        for text in texts:
            if isinstance(text, str | Mapping):
                question, truncated = self._question(prompt, self._example(prompt, text, raw, ()), most)
            else:
                question, truncated = self._token_question(prompt, text, most), False
            room = self.engine.batch.room(question)
            if room is not None and most > room:
                raise BadInput(
                    f"max_tokens is {most}, but only {room} tokens fit after this input: {self.backbone.name} has "
                    f"{self.backbone.context} positions. Lower max_tokens."
                )
            yield PreparedInput(question, truncated, most)

    def prepare_ranking(
        self, prompt: LoadedPrompt | None, texts: Sequence[Input], *, raw: bool, choices: Sequence[str] | None
    ) -> Iterator[PreparedInput]:
        """Prepare texts whose choices are ranked, one after another: the choices given, or the prompt's own."""
        self._check_count(texts)
        names = tuple(choices or (prompt.card.choices if prompt else ()))
        if not names:
            why = (
                f"The prompt {prompt.entry.name!r} answers in free text"
                if prompt
                else "Without a prompt there are no choices"
            )
            raise BadInput(f'{why}; give the choices in the request: "choices": ["yes", "no"].')
        if len(names) > self.limits.choices:
            raise BadInput(f"{len(names)} choices; this server ranks at most {self.limits.choices}.")
        self._check_characters("The choices have", sum(map(len, names)))
        cue = "" if prompt is None or raw else prompt.template.cue
        ids = self.backbone.tokens.choice_ids(names, cue)
        longest = max(map(len, ids))
        if longest > self.limits.input_tokens:
            raise BadInput(f"A choice has {longest} tokens; at most {self.limits.input_tokens} are read.")
        for text in texts:
            question, truncated = self._question(prompt, self._example(prompt, text, raw, names), longest)
            yield PreparedInput(question, truncated, 0, names, tuple(map(tuple, ids)))

    def conversation(self, prompt: LoadedPrompt | None, turns: Sequence[Turn]) -> tuple[str, bool]:
        """Write turns as a text; also return whether it is taken as it is, without a template.

        The backbone's own chat template writes them where there is no prompt. A prompt that shows conversations reads
        all turns, any other what the user said last.
        """
        if prompt is None:
            chat = self._chat()
            return chat.write(turns) + chat.answer, True
        if prompt.template.fields == [CONVERSATION]:
            return json.dumps([{"role": role, "content": text} for role, text in turns]), False
        said = [text for role, text in turns if role == "user"]
        if not said:
            raise BadInput("The messages have none of a user, which is what this prompt reads; add one.")
        return said[-1], False

    def describe_backbone(self) -> BackboneInfo:
        """Say what the backbone is."""
        backbone = self.backbone
        return BackboneInfo(
            name=backbone.name,
            kind=next(kind for kind, family in BACKBONE_FAMILIES.items() if family is backbone.family),
            dtype=str(backbone.dtype).removeprefix("torch."),
            device=str(backbone.device),
            hidden_size=backbone.d,
            vocabulary=backbone.v,
            context=backbone.context,
            parameters=sum(tensor.numel() for tensor in backbone.model.parameters()),
        )

    def tokenize(self, text: str, *, special: bool) -> list[int]:
        """Turn a text into token ids, with the special tokens around it or without."""
        self._check_characters("The text has", len(text))
        return list(self.backbone.tokens.encode(text) if special else self.backbone.tokens(text))

    def detokenize(self, ids: Sequence[int]) -> str:
        """Turn token ids into a text."""
        self._check_ids(ids)
        return self.engine.decode(ids)

    def _check_ids(self, ids: Sequence[int]) -> None:
        if (largest := max(ids)) >= self.backbone.v:
            raise BadInput(
                f"The token {largest} is past the vocabulary of {self.backbone.name}, which has {self.backbone.v}."
            )

    def _chat(self) -> Chat:
        try:
            return read_chat(self.backbone.tokenizer, self.backbone.name)
        except BadInput as error:
            why = str(error).removeprefix("--chat: ").partition(". ")[0]
            raise BadInput(f"{why}, so {BASE!r} reads no messages. Ask /v1/completions, or a prompt.") from None

    def _token_question(self, prompt: LoadedPrompt | None, ids: Sequence[int], target: int) -> Question:
        """Make a question of token ids that leave room for `target` tokens."""
        length = 0 if prompt is None else prompt.prompt.length
        most = self.limits.input_tokens if prompt is None else min(self.limits.input_tokens, prompt.card.max_source)
        most = min(most, self._room(length, target, most))
        if len(ids) > most:
            raise BadInput(f"The input has {len(ids)} tokens; beside the answer there is room for {most}. Shorten it.")
        self._check_ids(ids)
        if prompt is None:
            return Question(tuple(ids))
        return Question(tuple(ids), prompt.prompt, prompt.entry.key, self._before(prompt, ids))

    def _before(self, prompt: LoadedPrompt, ids: Sequence[int]) -> int:
        placement = prompt.card.placement
        return tokens_before(ids, self.backbone.tokens.opening if placement == "after_bos" else [], placement)

    def _check_count(self, texts: Sequence[object]) -> None:
        if not texts:
            raise BadInput("The request has no text; give at least one.")
        if len(texts) > self.limits.texts:
            raise BadInput(f"{len(texts)} texts in one request; at most {self.limits.texts}. Send several requests.")

    def _check_characters(self, what: str, characters: int) -> None:
        most = self.limits.input_tokens * self.limits.token_characters
        if characters > most:
            raise BadInput(f"{what} {characters} characters; this server reads at most {most}. Shorten it.")

    def _example(self, prompt: LoadedPrompt | None, text: Input, raw: bool, choices: tuple[str, ...]) -> Example:
        characters = len(text) if isinstance(text, str) else sum(len(str(value)) for value in text.values())
        self._check_characters("The input has", characters)
        if raw or prompt is None:
            if not isinstance(text, str):
                raise BadInput("Without a template an input is a text; got an object of columns.")
            return Example(text, choices=choices)
        template = prompt.template
        row = (
            read_text(template, text, prompt.card.chat)
            if isinstance(text, str)
            else {name: str(value) for name, value in text.items()}
        )
        template.check(row)
        first = choices[0] if choices else ""
        return Example(template.source(row), first, template.cue, choices, answer_at=template.answer_at(row))

    def _question(self, prompt: LoadedPrompt | None, example: Example, target: int) -> tuple[Question, bool]:
        """Tokenize a source that leaves room for `target` tokens; also return whether it was truncated."""
        limit = self.limits.input_tokens
        length = 0 if prompt is None else prompt.prompt.length
        most = limit if prompt is None else prompt.card.max_source
        tokens = len(self.backbone.tokens.encode(example.source + example.cue))
        if tokens > limit <= most:  # a prompt that reads fewer cuts a longer source, as `predict` does
            raise BadInput(f"The input has {tokens} tokens; this server reads at most {limit}. Shorten it.")
        ids, truncated = self.backbone.tokens.source_ids(example, min(most, self._room(length, target, most)))
        if truncated and prompt is None:
            raise BadInput(
                f"The input has {tokens} tokens; beside the answer {self.backbone.name} has room for {len(ids)}. "
                "Shorten it or lower max_tokens."
            )
        if not ids:
            raise BadInput("The input has no tokens; give some text.")
        if prompt is None:
            return Question(tuple(ids)), truncated
        return Question(tuple(ids), prompt.prompt, prompt.entry.key, self._before(prompt, ids)), truncated

    def _room(self, length: int, target: int, most: int) -> int:
        return most if self.backbone.context is None else self.backbone.room(length, target)
