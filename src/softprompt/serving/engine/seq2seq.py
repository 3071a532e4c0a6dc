"""Run a batch that sequences join and leave on an encoder-decoder backbone.

The encoder runs once for those that join together. Their first step gives the keys and values over the encoder's
states, which stay as they are, a slot a sequence. The decoder's own keys and values stand in columns that all
sequences share: the newest token of each is in the newest column, and a sequence sees the columns since it joined. So
distances between tokens are what they would be alone, which is all that a decoder with relative positions (T5) knows.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, EncoderDecoderCache

from softprompt.backbones import Seq2Seq
from softprompt.backbones.batch import Batch
from softprompt.backbones.ops.exact_head import exact_head
from softprompt.backbones.outputs import States
from softprompt.serving.engine.batching import Batching
from softprompt.serving.engine.kv_slots import Slots
from softprompt.serving.engine.ranking import LOGITS, ChoiceScores, Ranking, Scoring, in_runs
from softprompt.serving.engine.sequence import Question, lay

STATES = 16
"""Encoder states that a pass of the decoder may look at, for each token that it may read: they are copied for a row."""


class Seq2SeqBatch:
    """Run sequences of an encoder-decoder whose positions are relative."""

    def __init__(self, backbone: Seq2Seq, batching: Batching) -> None:
        self.backbone, self.batching = backbone, batching
        config: Any = backbone.model.config  # of transformers, which is not typed
        layers = getattr(config, "num_decoder_layers", None) or config.decoder_layers
        self.own, self.cross = Slots(layers), Slots(layers)
        self._column = 0  # the next one to be written
        self._begins: list[int] = []  # each sequence's first column
        self._sources: list[int] = []  # each sequence's number of encoder states

    def __len__(self) -> int:
        return len(self._begins)

    def tokens(self, question: Question, new: int) -> int:
        """Count the columns that a sequence takes in the end."""
        return question.length + len(question.source) + new

    def room(self, question: Question) -> int | None:
        """Return the most tokens that can follow a source; None: no limit."""
        return None  # a distance may be any

    def join(self, questions: Sequence[Question]) -> Tensor:
        """Add sequences after those there are; return the logits (g, v) of their first tokens, in float32."""
        first, lengths = len(self), [question.length + len(question.source) for question in questions]
        bank, batch = lay(self.backbone, questions)
        with self.backbone.using(bank):
            states = self.backbone.encoder_states(batch)
        cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        output = self.backbone.model(
            encoder_outputs=States(last_hidden_state=states), attention_mask=batch.mask.long(),
            past_key_values=cache, use_cache=True,
            decoder_input_ids=torch.full((len(questions), 1), self.backbone.decoder_start, device=self.backbone.device),
        )  # fmt: skip
        at = max(self._column - 1, 0)
        self.cross.reserve(first + len(lengths), max(self._sources + lengths))
        _store(self.cross, cache.cross_attention_cache, first, 0)
        self.own.reserve(first + len(lengths), at + 1)
        _store(self.own, cache.self_attention_cache, first, at)
        self._column = at + 1
        self._begins += [at] * len(questions)
        self._sources += lengths
        logits: Tensor = output.logits[:, -1].float()
        return logits

    def step(self, tokens: Sequence[int]) -> Tensor:
        """Give each sequence its next token; return the logits (b, v) of the ones after, in float32."""
        device, b, at = self.backbone.device, len(self), self._column
        columns = torch.full((b, 1), at, device=device)
        seen = torch.arange(at + 1) >= torch.tensor(self._begins).unsqueeze(1)  # (b, columns)
        n = max(self._sources)
        sources = torch.arange(n) < torch.tensor(self._sources).unsqueeze(1)  # (b, n)
        cache = EncoderDecoderCache(self.own.cache, self.cross.cache)
        cache.is_updated = dict.fromkeys(range(len(self.own.cache.layers)), True)
        # Without `is_updated` the decoder would compute the keys and values over the encoder's states again; with it,
        # transformers (read in 5.23.0) looks at the shape of those states only.
        states = torch.zeros((), dtype=self.backbone.dtype, device=device).expand(b, n, self.backbone.d)
        with self.own.reading(slice(0, b), columns, at + 1), self.cross.showing(slice(0, b), n):
            output = self.backbone.model(
                encoder_outputs=States(last_hidden_state=states), attention_mask=sources.to(device).long(),
                past_key_values=cache, use_cache=True,
                decoder_input_ids=torch.tensor(tokens, device=device).unsqueeze(1),
                decoder_attention_mask=seen.to(device).long(),
            )  # fmt: skip
        self._column += 1
        logits: Tensor = output.logits[:, -1].float()
        return logits

    def leave(self, index: int) -> None:
        """Remove sequence `index`; the last one takes its place."""
        last = len(self) - 1
        if index != last:
            self.own.move(last, index)
            self.cross.move(last, index)
            self._begins[index], self._sources[index] = self._begins[last], self._sources[last]
        self.own.blank(last)  # a masked column still counts as 0 times what stands there, and that may be NaN
        self.cross.blank(last)
        self._begins.pop()
        self._sources.pop()
        if not self._begins:
            self.clear()
        elif (unused := min(self._begins)) > self._column // 2:  # columns that none of the sequences left has written
            self.own.shift(unused)
            self._begins = [begin - unused for begin in self._begins]
            self._column -= unused

    def clear(self) -> None:
        """Remove all sequences and give their memory back."""
        self._column, self._begins, self._sources = 0, [], []
        self.own.clear()
        self.cross.clear()

    def score(self, questions: Sequence[Question], rankings: Sequence[Ranking]) -> Scoring:
        """Compute the log-probability of each choice of each question. The encoder runs once a question."""
        backbone, scores = self.backbone, ChoiceScores(rankings)
        bank, batch = lay(backbone, questions)
        with backbone.using(bank):
            states = backbone.encoder_states(batch)
        rows = [(i, row, target) for i, one in enumerate(rankings) for row, target in enumerate(one.targets)]
        rows.sort(key=lambda row: len(row[2]))
        sizes = [(len(target), len(target), states.shape[1]) for _, _, target in rows]
        most = self.batching.pass_tokens
        for run in in_runs(sizes, (most, LOGITS / backbone.v, STATES * most)):
            if run.start:
                yield
            group = rows[run]
            owners = torch.tensor([i for i, _, _ in group], device=backbone.device)
            labels = backbone.pad_rows([target for _, _, target in group], backbone.pad, left=False)
            posed = Batch(batch.ids[owners], batch.mask[owners], batch.layout, labels, (), ())
            with exact_head(backbone.model):
                found = backbone.target_scores(states[owners], posed)  # (rows, t, v)
            picks = [(i, scores.picks(i, row, column)) for i, row, _ in group for column in range(labels.shape[1])]
            scores.add(picks, found.flatten(0, 1))
        return scores.found


class Seq2SeqCohorts:
    """Run sequences of a decoder with absolute positions (BART): those that joined together share a batch."""

    def __init__(self, backbone: Seq2Seq, batching: Batching) -> None:
        self.backbone, self.batching = backbone, batching
        self._cohorts: list[Seq2SeqBatch] = []
        self._places: list[tuple[Seq2SeqBatch, int]] = []  # each sequence's cohort, and its index there

    def __len__(self) -> int:
        return len(self._places)

    def tokens(self, question: Question, new: int) -> int:
        return question.length + len(question.source) + new

    def room(self, question: Question) -> int | None:
        return None if self.backbone.context is None else self.backbone.context - 1

    def join(self, questions: Sequence[Question]) -> Tensor:
        cohort = Seq2SeqBatch(self.backbone, self.batching)
        logits = cohort.join(questions)
        self._cohorts.append(cohort)
        self._places += [(cohort, i) for i in range(len(questions))]
        return logits

    def step(self, tokens: Sequence[int]) -> Tensor:
        logits: dict[int, Tensor] = {}
        for cohort in self._cohorts:
            members = [(place[1], i) for i, place in enumerate(self._places) if place[0] is cohort]
            own = cohort.step([tokens[i] for _, i in sorted(members)])
            logits |= {i: own[row] for row, i in members}
        return torch.stack([logits[i] for i in range(len(self))])

    def leave(self, index: int) -> None:
        cohort, row = self._places[index]
        last = len(cohort) - 1
        cohort.leave(row)
        self._places = [(c, row) if c is cohort and r == last else (c, r) for c, r in self._places]
        self._places[index] = self._places[-1]
        self._places.pop()
        self._cohorts = [cohort for cohort in self._cohorts if len(cohort)]

    def clear(self) -> None:
        self._cohorts, self._places = [], []

    def score(self, questions: Sequence[Question], rankings: Sequence[Ranking]) -> Scoring:
        return Seq2SeqBatch(self.backbone, self.batching).score(questions, rankings)


def _store(slots: Slots, cache: DynamicCache, first: int, column: int) -> None:
    """Copy the keys and values of a separate call into slots from `first` on, at `column`."""
    for i, layer in enumerate(cache.layers):
        slots.fill(i, first, column, layer.keys, layer.values)
