"""What every backbone is: a frozen model, its tokenizer, and four verbs."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from softprompt.backbones.attach import install
from softprompt.backbones.batch import Batch, Losses, Observed
from softprompt.backbones.cloze import BackboneKind, check_supported
from softprompt.backbones.logits_processors import reads_soft_ids
from softprompt.backbones.ops.fused import unfused
from softprompt.backbones.ops.layers import are_checkpointed
from softprompt.backbones.placement import Placement, check_placement, tokens_before
from softprompt.backbones.token_cache import TextIds
from softprompt.errors import BadData, BadInput
from softprompt.methods.bank import Bank
from softprompt.methods.embedding import IGNORED, Layout
from softprompt.methods.initialization import embedding_scale
from softprompt.tasks.task import Example, Scoring

MOST_CHOICES = 10_000
"""Sets of choices whose ids are held in memory."""


class Backbone:
    """A frozen model that can be asked. `using(bank)` says which soft prompts its rows may name."""

    kind: BackboneKind
    generates = True
    """Whether it answers in free text, too."""

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        name: str,
        *,
        max_source: int = 256,
        dropout: bool = False,
        placement: str = "front",
    ) -> None:
        self.model, self.tokenizer, self.name, self.max_source = model, tokenizer, name, max_source
        self.placement: Placement = check_placement(placement)
        model.requires_grad_(False)
        model.train(dropout)  # eval by default: no dropout inside the frozen network
        table: nn.Module = model.get_input_embeddings()  # type: ignore
        assert isinstance(table.weight, Tensor)
        self.v, self._width = table.weight.shape
        self.pad: int = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
        self.embedding = install(model, Bank(), self.pad)
        self.sharded = False
        """Its layers are spread over the processes of this run, which must therefore all call it equally often."""
        self._choice_ids: dict[tuple[str, ...], list[list[int]]] = {}
        self._whole, self._parts = TextIds(tokenizer), TextIds(tokenizer, special=False)

    @property
    def d(self) -> int:
        return int(self._width)

    @property
    def device(self) -> torch.device:
        return self.embedding.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.embedding.weight.dtype

    @property
    def context(self) -> int | None:
        """Positions there are for soft tokens, source and (causal) target together; None when unlimited."""
        config = self.model.config
        return getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None)

    @contextmanager
    def using(self, bank: Bank) -> Iterator[None]:
        """Let rows name the prompts of `bank` inside the block. At its end, what `remember` asks for is written."""
        before, self.embedding.bank = self.embedding.bank, Bank()  # a baseline finds nothing but the network
        try:
            with bank.inside(self):
                self.embedding.bank = bank
                yield
        finally:
            self.embedding.bank = before
            self._whole.keep()
            self._parts.keep()

    @property
    def recomputes_layers(self) -> bool:
        """Whether the backward pass runs layers a second time (gradient checkpointing)."""
        return are_checkpointed(self.model)

    def unfused(self) -> AbstractContextManager[None]:
        """Run norms as transformers writes them inside the block, so that their weights get gradients."""
        return unfused(self.model)

    def can_pack(self, prompts: Sequence[int]) -> bool:
        """Whether examples with these prompts are computed without padding, each prompt once for all of them."""
        return False

    @contextmanager
    def frozen_prompts(self) -> Iterator[None]:
        """Inside the block the bank does not change, so what depends on a prompt alone is computed once."""
        yield

    # What a start needs to know of the tokens (softprompt.methods.initialization.Vocabulary)

    def ordinary_ids(self) -> list[int]:
        special = set(self.tokenizer.all_special_ids)
        return [i for i in range(min(len(self.tokenizer), self.v)) if i not in special]

    def tokens(self, text: str) -> list[int]:
        return self._parts(text)

    def embed(self, ids: Sequence[int]) -> Tensor:
        with torch.no_grad():
            made: Tensor = self.embedding.table(torch.tensor(list(ids), dtype=torch.long, device=self.device))
            return made.float().cpu().reshape(-1, self.d)

    def scale(self) -> float:
        """Root mean square of the embedding entries, as the network receives them: the unit of learning rates."""
        return embedding_scale(self)

    # The four verbs

    def pose(self, examples: Sequence[Example], prompts: Sequence[int], *, targets: bool = False) -> Batch:
        """Lay out examples, row i with prompt `prompts[i]` of the bank (-1: none), with targets to learn or without."""
        return self.pose_ids(examples, prompts, [self.target_ids(e) for e in examples] if targets else None)

    def loss(self, batch: Batch) -> Losses:
        """Score a batch posed with targets; gradients reach the bank."""
        raise NotImplementedError

    def observe(self, batch: Batch) -> Observed:
        """What `loss` is computed from, of a batch posed with targets; gradients reach the bank.

        The same examples in the same order give the same tokens in the same order, whatever their prompts' values.
        """
        raise NotImplementedError

    def answer(
        self, examples: Sequence[Example], prompts: Sequence[int], *, max_new_tokens: int = 20, **options: Any
    ) -> list[str]:
        """Generate an answer to each example; `options` are transformers' generation options (greedy without any)."""
        batch = self.pose(examples, prompts)
        nothing = self.v + self.embedding.bank.size
        reading = reads_soft_ids(self.model, ~batch.mask, nothing)
        with torch.no_grad(), self.embedding.laid_out(batch.layout), reading:
            made = self.model.generate(  # type: ignore[operator]
                input_ids=batch.ids,
                attention_mask=batch.mask.long(),
                synced_gpus=self.sharded,  # a process whose answers have ended goes on until all have
                **{"max_new_tokens": max_new_tokens, "do_sample": False, "pad_token_id": self.pad, **options},
            )
        texts = self.tokenizer.batch_decode(self._generated(made, batch), skip_special_tokens=True)
        return [text.strip() for text in texts]

    def rank(self, examples: Sequence[Example], prompts: Sequence[int]) -> Float[Tensor, "b choices"]:
        """Log-probability of each choice of each example, in nats; all examples must have equally many choices.

        The score is that of the choice's tokens alone. Only where one choice is the beginning of another
        does the end-of-sequence token count too: without it the shorter could never lose. One forward serves
        all choices that differ in their last token only; others take one row a choice.
        """
        choices = [self.choice_ids(e.choices) for e in examples]
        with torch.no_grad():
            if all(self.ranking_rows(e.choices) == 1 for e in examples):
                return self._rank_last_token(examples, prompts, choices)
            return self._rank_rows(examples, prompts, choices)

    def ranking_rows(self, choices: Sequence[str]) -> int:
        """Rows that ranking computes for an example: one where choices differ in their last token only."""
        ids = self.choice_ids(choices)
        alike = all(len(other) == len(ids[0]) and other[:-1] == ids[0][:-1] for other in ids)
        return 1 if alike else len(ids)

    # Tokens

    def remember(self) -> None:
        """Keep on disk what is tokenised, and look there first (softprompt.backbones.token_cache)."""
        self._whole.remember()
        self._parts.remember()

    def hold(self, most: int) -> None:
        """Hold about `most` bytes of texts and their ids in memory, and no more."""
        self._whole.most = self._parts.most = most

    def read_sources(self, examples: Sequence[Example]) -> None:
        """Tokenise the sources of examples that will be asked for: together takes half the time of one by one."""
        self._whole.read(example.source + example.cue for example in examples)

    def read_targets(self, examples: Sequence[Example]) -> None:
        """The same for their targets; choices are few, and seen to by `choice_ids`."""
        self._parts.read(self._continuing(e.target) for e in examples if e.target not in e.choices)

    def target_ids(self, example: Example) -> list[int]:
        """Ids of an example's target as it is learned: the text and the end-of-sequence token."""
        return [*self.continuation(example.target), self._eos()]

    def choice_ids(self, choices: Sequence[str]) -> list[list[int]]:
        """Ids of each choice as it is scored. Raises BadInput for one without tokens and for two that are the same."""
        key = tuple(choices)
        if len(self._choice_ids) > MOST_CHOICES:  # a server's clients may name any
            self._choice_ids = {}
        if key not in self._choice_ids:  # every example of a task asks again, and comparing all pairs is not free
            self._choice_ids[key] = self._checked_choice_ids(key)
        return self._choice_ids[key]

    def _checked_choice_ids(self, choices: tuple[str, ...]) -> list[list[int]]:
        ids = [self.continuation(choice) for choice in choices]
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
        return self._told_apart(ids)

    def _told_apart(self, ids: list[list[int]]) -> list[list[int]]:
        """Where one choice begins another, all end with end-of-sequence."""
        nested = any(a is not b and b[: len(a)] == a for a in ids for b in ids)
        return [[*tokens, self._eos()] for tokens in ids] if nested else ids

    def continuation(self, text: str) -> list[int]:
        """Ids of `text` as it continues a source."""
        raise NotImplementedError

    def _continuing(self, text: str) -> str:
        """What the tokenizer is given for a continuation."""
        return text

    def source_ids(self, example: Example, room: int) -> tuple[list[int], bool]:
        """Ids of the source and its cue, at most `room` of them, and whether any were cut.

        The cut falls on the source's end, before the cue, so a template keeps its last words.
        """
        self.check_supported(example)
        ids = self.encode(example.source + example.cue)
        if len(ids) <= room:
            return ids, False
        cue = self.tokens(example.cue) + self._closing()
        kept = room - len(cue)
        if kept < max(1, len(self.opening)):
            raise BadInput(f"A source limit of {room} tokens leaves no room beside the cue {example.cue!r}.")
        start = self.encode(example.source)
        return start[: min(kept, len(start) - len(self._closing()))] + cue, True

    def check_supported(self, example: Example, scoring: Scoring = "ranked") -> None:
        """Raise BadInput when this kind of backbone cannot be asked such an example, or its answers not scored so."""
        mask = example.answer_at is not None
        check_supported(self.kind, self.name, choices=example.choices, mask=mask, scoring=scoring)

    def room(self, length: int, target: int) -> int:
        """Source tokens there is room for beside `length` soft tokens and `target` target tokens.

        Raises BadInput when there is none, saying what to shorten.
        """
        raise NotImplementedError

    def size(self, example: Example, *, targets: bool) -> int:
        """Tokens of an example: its source as it is read and, if asked for, its target."""
        source = min(len(self.encode(example.source + example.cue)), self.max_source)
        return source + (len(self.target_ids(example)) if targets else 0)

    def encode(self, text: str) -> list[int]:
        return self._whole(text)

    @cached_property
    def opening(self) -> list[int]:
        """Special tokens that the tokenizer puts at the start of a source."""
        whole, bare = self.encode(":"), self.tokens(":")
        starts = [i for i in range(len(whole)) if whole[i : i + len(bare)] == bare]
        return whole[: starts[0]] if bare and starts else []

    def _closing(self) -> list[int]:
        """Special tokens that the tokenizer puts at the end of a source."""
        return []

    def _eos(self) -> int:
        eos: int | None = self.tokenizer.eos_token_id
        if eos is None:
            raise BadInput(f"The tokenizer of {self.name} has no end-of-sequence token, so a target cannot end.")
        return eos

    def _sources(
        self, examples: Sequence[Example], prompts: Sequence[int], reserved: Sequence[int]
    ) -> tuple[list[list[int]], tuple[bool, ...]]:
        """Source ids of each row, cut to leave room for its own prompt and `reserved` target tokens of its own."""
        bank, found = self.embedding.bank, []
        for example, prompt, target in zip(examples, prompts, reserved, strict=True):
            room = self.room(bank.longest([prompt]), target)
            found.append(self.source_ids(example, min(self.max_source, room)))
        for example, (ids, _) in zip(examples, found, strict=True):
            if not ids:
                raise BadData(f"The example {example.id or example.source!r} has no source tokens.")
        return [ids for ids, _ in found], tuple(cut for _, cut in found)

    def pad_rows(self, rows: Sequence[Sequence[int]], value: int, *, left: bool) -> Int[Tensor, "b n"]:
        """Pad rows to their longest with `value`."""
        n = max(len(row) for row in rows)
        pads = [[value] * (n - len(row)) for row in rows]
        made = [[*pad, *row] if left else [*row, *pad] for row, pad in zip(rows, pads, strict=True)]
        return torch.tensor(made, dtype=torch.long, device=self.device)

    def pose_ids(
        self,
        examples: Sequence[Example],
        prompts: Sequence[int],
        targets: Sequence[Sequence[int]] | None,
        reserved: Sequence[int] | None = None,
    ) -> Batch:
        """Rows with these targets; `reserved` says for how many target tokens a source leaves room, if not its own."""
        if reserved is None:
            reserved = [0] * len(examples) if targets is None else [len(target) for target in targets]
        sources, truncated = self._sources(examples, prompts, reserved)
        return self.lay(sources, prompts, targets, truncated)

    def lay(
        self,
        sources: Sequence[Sequence[int]],
        prompts: Sequence[int],
        targets: Sequence[Sequence[int]] | None,
        truncated: tuple[bool, ...],
    ) -> Batch:
        """A batch of ids: each row its prompt's soft tokens, a source and, where one text holds both, its target."""
        left = self.labels_on_right()
        tails = targets if left and targets is not None else [()] * len(sources)
        rows, ranks, heads = [], [], []
        for source, prompt, tail in zip(sources, prompts, tails, strict=True):
            soft, at = self.embedding.bank.soft_ids(prompt, self.v), self.tokens_before(source)
            rows.append([*source[:at], *soft, *source[at:], *tail])
            ranks.append([*range(at), *[-1] * len(soft), *range(at, len(source)), *[-1] * len(tail)])
            heads.append(at + len(soft) if soft and at < len(source) else 0)
        real = self.pad_rows([[1] * len(row) for row in rows], 0, left=left).bool()
        layout = Layout(torch.tensor(list(prompts), device=self.device), self.pad_rows(ranks, -1, left=left))
        labels = None if targets is None else self._labels(targets)
        ids = self.pad_rows(rows, self.pad, left=left)
        return Batch(ids, real, layout, labels, tuple(prompts), truncated, tuple(heads))

    def _labels(self, targets: Sequence[Sequence[int]]) -> Int[Tensor, "b t"]:
        return self.pad_rows(targets, IGNORED, left=self.labels_on_right())

    def tokens_before(self, source: Sequence[int]) -> int:
        """How many tokens of a source stand before its prompt."""
        return tokens_before(source, self.opening if self.placement == "after_bos" else [], self.placement)

    def _generated(self, made: Tensor, batch: Batch) -> Tensor:
        """The answers' ids among what generate returned."""
        return made

    def _rank_last_token(
        self, examples: Sequence[Example], prompts: Sequence[int], choices: list[list[list[int]]]
    ) -> Tensor:
        """Rank choices that share all tokens but the last: one row an example."""
        batch = self.pose_ids(examples, prompts, [group[0] for group in choices])
        scores = self.log_probabilities(batch)  # (b, t, v)
        made = []
        for row, group in enumerate(choices):
            columns = (
                slice(scores.shape[1] - len(group[0]), None) if self.labels_on_right() else slice(0, len(group[0]))
            )
            own = scores[row, columns]  # (t of this row, v)
            shared = own[:-1].gather(1, torch.tensor(group[0][:-1], device=own.device).long().unsqueeze(1)).sum()
            made.append(shared + own[-1, [ids[-1] for ids in group]])
        return torch.stack(made)

    def _rank_rows(self, examples: Sequence[Example], prompts: Sequence[int], choices: list[list[list[int]]]) -> Tensor:
        """Rank any choices: one row for each choice of each example."""
        width = len(choices[0])
        rows = [example for example in examples for _ in range(width)]
        owners = [prompt for prompt in prompts for _ in range(width)]
        longest = [max(map(len, group)) for group in choices for _ in range(width)]  # all choices see the same source
        batch = self.pose_ids(rows, owners, [ids for group in choices for ids in group], longest)
        return -self.loss(batch).nll.reshape(len(examples), width)

    def log_probabilities(self, batch: Batch) -> Float[Tensor, "b t v"]:
        """float32 log-probabilities at the label positions."""
        raise NotImplementedError

    def labels_on_right(self) -> bool:
        """Whether labels stand at the right end of their row."""
        return False

    def _losses_of(self, batch: Batch, scores: Float[Tensor, "b t v"]) -> Losses:
        """Losses of a batch's labels under log-probabilities `scores`."""
        assert batch.labels is not None
        real = batch.labels != IGNORED
        picked = scores.gather(2, batch.labels.masked_fill(~real, 0).unsqueeze(2)).squeeze(2)  # (b, t)
        return Losses(-picked.masked_fill(~real, 0).sum(1), real.sum(1))
