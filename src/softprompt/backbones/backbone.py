"""The base of all backbones: lay out examples as rows, and four verbs (pose, loss, answer, rank)."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from softprompt.backbones.batch import Batch, Losses, Observed, losses_of
from softprompt.backbones.check_memory import recall_rows
from softprompt.backbones.frozen_model import FrozenModel
from softprompt.backbones.logits_processors import reads_soft_ids
from softprompt.backbones.ops.exact_head import exact_head
from softprompt.backbones.row_check import Grouping
from softprompt.errors import BadData, BadInput
from softprompt.methods.bank import Bank
from softprompt.methods.embedding import IGNORED, Layout
from softprompt.tasks.task import Example, Scoring


class Backbone(FrozenModel):
    """A frozen model that answers examples; a family is a subclass (softprompt.backbones.families)."""

    # The four verbs

    def pose(self, examples: Sequence[Example], prompts: Sequence[int], *, targets: bool = False) -> Batch:
        """Lay out examples, row i with prompt `prompts[i]` of the bank (-1: none), with targets to learn or without."""
        return self.pose_ids(examples, prompts, [self.tokens.target_ids(e) for e in examples] if targets else None)

    def loss(self, batch: Batch) -> Losses:
        """Compute the losses of a batch posed with targets; gradients reach the bank."""
        return losses_of(batch, self.log_probabilities(batch))

    def observe(self, batch: Batch) -> Observed:
        """Return what `loss` is computed from, for a batch posed with targets; gradients reach the bank.

        The same examples in the same order give the same tokens in the same order, whatever their prompts' values.
        """
        raise NotImplementedError

    def answer(
        self, examples: Sequence[Example], prompts: Sequence[int], *, max_new_tokens: int = 20, **options: object
    ) -> list[str]:
        """Generate an answer to each example.

        Args:
            examples: As many as there are prompts.
            prompts: Index of each example's prompt in the bank (-1: none).
            max_new_tokens: Most tokens of an answer.
            options: Generation options of transformers; greedy without any.
        """
        batch = self.pose(examples, prompts)
        if self.grouping == "padded":
            return self.texts(self.generate_ids(batch, max_new_tokens=max_new_tokens, **options))
        texts: dict[int, str] = {}
        for rows in self.row_groups(batch):
            own = batch.take(rows, left=self.labels_on_right())
            texts |= zip(
                rows, self.texts(self.generate_ids(own, max_new_tokens=max_new_tokens, **options)), strict=True
            )
        return [texts[i] for i in range(len(examples))]

    def rank(self, examples: Sequence[Example], prompts: Sequence[int]) -> Float[Tensor, "b choices"]:
        """Compute the log-probability of each choice of each example, in nats; all must have equally many choices.

        The score is that of the choice's tokens alone, from logits in float32 whatever the weights' type. Only where
        one choice is the beginning of another does the end-of-sequence token count too: without it the shorter could
        never lose. One forward serves all choices that differ in their last token only; others take one row a choice.
        """
        choices = [self.tokens.choice_ids(e.choices, e.cue) for e in examples]
        with torch.no_grad(), exact_head(self.model):
            if all(self.ranking_rows(e) == 1 for e in examples):
                return self._rank_last_token(examples, prompts, choices)
            return self._rank_rows(examples, prompts, choices)

    # What the verbs are made of

    @property
    def grouping(self) -> Grouping:
        """Which rows go through the network together."""
        self.check()
        assert self._grouping is not None
        return self._grouping

    @grouping.setter
    def grouping(self, grouping: Grouping) -> None:
        self._grouping = grouping

    @property
    def generates(self) -> bool:
        """Whether it writes free text."""
        self.check()
        return self.family.generates and not self._no_text

    def check(self) -> None:
        """Try a few rows alone and together, once (softprompt.backbones.row_check).

        Raises BadInput where the network does not read soft tokens.
        """
        if self._grouping is not None:  # known, or being tried
            return
        self._grouping = "alone"
        try:
            self._grouping, self._no_text = recall_rows(self)
        except BadInput:
            self._grouping = None
            raise
        if self._grouping != "padded":
            how = "one length after the other" if self._grouping == "alike" else "one by one"
            warnings.warn(
                f"{self.name} answers otherwise beside a longer text than alone, so rows go through it {how}: the "
                "results are right, but slower.",
                stacklevel=2,
            )

    @contextmanager
    def using(self, bank: Bank) -> Iterator[None]:
        self.check()  # before a baseline of the bank changes the network
        with super().using(bank):
            yield

    def check_example(self, example: Example, scoring: Scoring = "ranked") -> None:
        super().check_example(example, scoring)
        if (scoring == "generated" or not example.choices) and self._no_text:
            raise BadInput(
                f"{self.name} cannot answer in free text: {self._no_text}. Give a task with choices, or another "
                "backbone."
            )

    def log_probabilities(self, batch: Batch) -> Float[Tensor, "b t v"]:
        """Compute float32 log-probabilities at the label positions of a batch posed with targets, in nats."""
        raise NotImplementedError

    def own_scores(self, batch: Batch) -> Float[Tensor, "b t v"]:
        """Compute log-probabilities as the network does for ids alone: no mask, no positions, rows without padding."""
        raise NotImplementedError

    def layer_states(self, batch: Batch, count: int) -> list[Float[Tensor, "b n d"]]:
        """Compute the hidden states after `count` layers, evenly spaced, the last among them; of an encoder's, if any.

        Raises BadInput for a network that does not give them.
        """
        with self.embedding.laid_out(batch.layout):
            states = self.read_layers(batch)
        if not states:
            raise BadInput(f"{self.name} does not give the states of its layers (output_hidden_states).")
        last = len(states) - 1  # the first are the embeddings
        return [states[i] for i in sorted({max(1, round(last * k / count)) for k in range(1, count + 1)})]

    def read_layers(self, batch: Batch) -> tuple[Tensor, ...] | None:
        """Run what reads the source, and return its embeddings and the states after each layer."""
        read: PreTrainedModel = self.model.base_model
        made: tuple[Tensor, ...] | None = read(
            input_ids=batch.ids, attention_mask=batch.mask.long(), output_hidden_states=True
        ).hidden_states
        return made

    def plain_scores(self, batch: Batch) -> Float[Tensor, "b t v"]:
        """Compute log-probabilities row by row of the batch, each with its own copy of its prompt."""
        return self.log_probabilities(batch)

    def generate_ids(self, batch: Batch, **options: object) -> Int[Tensor, "b t"]:
        """Generate ids after the rows of a batch, greedily unless `options` of transformers say otherwise."""
        made: Tensor = self.generate(batch, **options)  # type: ignore[assignment]
        # A decoder-only model returns the rows themselves first.
        return made[:, batch.ids.shape[1] :] if self.family.decoder_only else made

    def generate(self, batch: Batch, **options: object) -> object:
        """Call transformers' `generate` on the rows of a batch, greedily unless `options` say otherwise."""
        reading = reads_soft_ids(self.model, ~batch.mask, self.v + self.embedding.bank.size)
        with torch.no_grad(), self.embedding.laid_out(batch.layout), reading:
            made: object = self.model.generate(  # type: ignore[operator]
                input_ids=batch.ids,
                attention_mask=batch.mask.long(),
                synced_gpus=self.sharded,  # a process whose answers have ended goes on until all have
                **{"do_sample": False, "pad_token_id": self.pad, **options},
            )
        return made

    def row_groups(self, batch: Batch) -> list[list[int]]:
        """Say which rows of a batch go through the network together where they may not be padded."""
        rows = list(range(len(batch.prompts)))
        alike = batch.lengths if self.grouping == "alike" else rows
        return [[i for i in rows if alike[i] == one] for one in dict.fromkeys(alike)]

    def in_groups(self, batch: Batch, compute: Callable[[Batch], Tensor]) -> Float[Tensor, "b n _"]:
        """Compute (b, n, ...) from `row_groups` one after the other, padded with zeros where the batch is padded."""
        left, groups = self.labels_on_right(), self.row_groups(batch)
        made = [compute(batch.take(rows, left=left)) for rows in groups]
        n = max(part.shape[1] for part in made)
        gaps = [(n - part.shape[1], 0) if left else (0, n - part.shape[1]) for part in made]
        whole = torch.cat([nn.functional.pad(part, (0, 0, *gap)) for part, gap in zip(made, gaps, strict=True)])
        order = [i for rows in groups for i in rows]
        return whole[torch.tensor(order, device=self.device).argsort()]

    def labels_on_right(self) -> bool:
        """Tell whether labels stand at the right end of their row (and padding on the left)."""
        return self.family.decoder_only

    def ranking_rows(self, example: Example) -> int:
        """Count the rows that ranking computes for `example`: one where choices differ in their last token only."""
        ids = self.tokens.choice_ids(example.choices, example.cue)
        alike = all(len(other) == len(ids[0]) and other[:-1] == ids[0][:-1] for other in ids)
        return 1 if alike else len(ids)

    def texts(self, ids: Int[Tensor, "b t"]) -> list[str]:
        """Decode generated ids, without special tokens and blanks around them."""
        return [text.strip() for text in self.tokenizer.batch_decode(ids, skip_special_tokens=True)]

    # Rows

    def pose_ids(
        self,
        examples: Sequence[Example],
        prompts: Sequence[int],
        targets: Sequence[Sequence[int]] | None,
        reserved: Sequence[int] | None = None,
    ) -> Batch:
        """Lay out examples with these target ids; sources leave room for `reserved` target tokens, if not their own."""
        if reserved is None:
            reserved = [0] * len(examples) if targets is None else [len(target) for target in targets]
        sources, truncated = self.source_rows(examples, prompts, reserved)
        return self.lay(sources, prompts, targets, truncated)

    def source_rows(
        self, examples: Sequence[Example], prompts: Sequence[int], reserved: Sequence[int]
    ) -> tuple[list[list[int]], tuple[bool, ...]]:
        """Return each row's source ids, cut to leave room for its prompt and `reserved` target tokens.

        Also returns whether each was cut. Raises BadInput where a prompt leaves no room, BadData for an empty source.
        """
        bank, found = self.embedding.bank, []
        for example, prompt, target in zip(examples, prompts, reserved, strict=True):
            room = self.room(bank.longest([prompt]), target)
            found.append(self.tokens.source_ids(example, min(self.max_source, room)))
        for example, (ids, _) in zip(examples, found, strict=True):
            if not ids:
                raise BadData(f"The example {example.id or example.source!r} has no source tokens.")
        return [ids for ids, _ in found], tuple(cut for _, cut in found)

    def lay(
        self,
        sources: Sequence[Sequence[int]],
        prompts: Sequence[int],
        targets: Sequence[Sequence[int]] | None,
        truncated: tuple[bool, ...],
    ) -> Batch:
        """Make a batch of ids: each row has its prompt's soft tokens and a source; if decoder-only, its target, too."""
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
        labels = None if targets is None else self.pad_rows(targets, IGNORED, left=left)
        ids = self.pad_rows(rows, self.pad, left=left)
        return Batch(ids, real, layout, labels, tuple(prompts), truncated, tuple(heads))

    def pad_rows(self, rows: Sequence[Sequence[int]], value: int, *, left: bool) -> Int[Tensor, "b n"]:
        """Pad rows with `value` to the longest, on the left or on the right."""
        n = max(len(row) for row in rows)
        pads = [[value] * (n - len(row)) for row in rows]
        made = [[*pad, *row] if left else [*row, *pad] for row, pad in zip(rows, pads, strict=True)]
        return torch.tensor(made, dtype=torch.long, device=self.device)

    # Ranking

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
