"""Encoder-decoder backbones: a batch that sequences join and leave.

The encoder runs once for those that join together. Their first step gives the keys and values over the encoder's
states, which stay as they are, a slot a sequence. The decoder's own keys and values stand in columns that all
sequences share: the newest token of each is in the newest column, and a sequence sees the columns since it joined. So
distances between tokens are what they would be alone, which is all that a decoder with relative positions (T5) knows.
"""

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, EncoderDecoderCache

from softprompt.backbones import Seq2Seq
from softprompt.backbones.batch import Batch
from softprompt.serving.engine.kv_slots import Slots
from softprompt.serving.engine.sequence import Question, Ranking, lay, read_picks, summed


class Seq2SeqBatch:
    """Sequences of an encoder-decoder whose positions are relative."""

    def __init__(self, backbone: Seq2Seq) -> None:
        self.backbone = backbone
        config: Any = backbone.model.config
        layers = getattr(config, "num_decoder_layers", None) or config.decoder_layers
        self.own, self.cross = Slots(layers), Slots(layers)
        self._column = 0  # the next one to be written
        self._born: list[int] = []  # of each sequence, its first column
        self._sources: list[int] = []  # of each sequence, its encoder states

    def __len__(self) -> int:
        return len(self._born)

    def tokens(self, question: Question, new: int) -> int:
        """Columns that a sequence takes in the end."""
        return question.length + len(question.source) + new

    def room(self, question: Question) -> int | None:
        """Most tokens that can follow a source; None: no limit."""
        return None  # a distance may be any

    def join(self, questions: Sequence[Question]) -> Tensor:
        """Let sequences join behind those there are; returns the logits (g, v) of their first tokens, in float32."""
        first, lengths = len(self), [question.length + len(question.source) for question in questions]
        bank, batch = lay(self.backbone, questions)
        with self.backbone.using(bank):
            states = self.backbone.encoder_states(batch)
        cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        start: int = self.backbone.model.config.decoder_start_token_id  # type: ignore
        made: Any = self.backbone.model(
            encoder_outputs=(states,), attention_mask=batch.mask.long(), past_key_values=cache, use_cache=True,
            decoder_input_ids=torch.full((len(questions), 1), start, device=self.backbone.device),
        )  # fmt: skip
        at = max(self._column - 1, 0)
        _store(self.cross, cache.cross_attention_cache, first, 0, max(lengths))
        _store(self.own, cache.self_attention_cache, first, at, 1)
        self._column = at + 1
        self._born += [at] * len(questions)
        self._sources += lengths
        logits: Tensor = made.logits[:, -1].float()
        return logits

    def step(self, tokens: Sequence[int]) -> Tensor:
        """Give each sequence its next token; returns the logits (b, v) of the ones after, in float32."""
        device, b, at = self.backbone.device, len(self), self._column
        columns = torch.full((b, 1), at, device=device)
        seen = torch.arange(at + 1) >= torch.tensor(self._born).unsqueeze(1)  # (b, columns)
        n = max(self._sources)
        sources = torch.arange(n) < torch.tensor(self._sources).unsqueeze(1)  # (b, n)
        cache = EncoderDecoderCache(self.own.cache, self.cross.cache)
        cache.is_updated = dict.fromkeys(range(len(self.own.cache.layers)), True)
        # Where keys and values are there already, only the shape of the encoder's states is looked at.
        states = torch.zeros((), dtype=self.backbone.dtype, device=device).expand(b, n, self.backbone.d)
        with self.own.reading(slice(0, b), columns, at + 1), self.cross.showing(slice(0, b), n):
            made: Any = self.backbone.model(
                encoder_outputs=(states,), attention_mask=sources.to(device).long(), past_key_values=cache,
                use_cache=True, decoder_input_ids=torch.tensor(tokens, device=device).unsqueeze(1),
                decoder_attention_mask=seen.to(device).long(),
            )  # fmt: skip
        self._column += 1
        logits: Tensor = made.logits[:, -1].float()
        return logits

    def leave(self, index: int) -> None:
        """Let sequence `index` go; the last one takes its place."""
        last = len(self) - 1
        if index != last:
            self.own.move(last, index)
            self.cross.move(last, index)
            self._born[index], self._sources[index] = self._born[last], self._sources[last]
        self._born.pop()
        self._sources.pop()
        if not self._born:
            self.clear()
        elif (unused := min(self._born)) > self._column // 2:  # columns that nobody left here has written
            self.own.shift(unused)
            self._born = [born - unused for born in self._born]
            self._column -= unused

    def clear(self) -> None:
        self._column, self._born, self._sources = 0, [], []
        self.own.clear()
        self.cross.clear()

    def score(self, questions: Sequence[Question], rankings: Sequence[Ranking]) -> list[list[float]]:
        """Log-probability of each choice of each question, in nats. The encoder runs once a question."""
        backbone = self.backbone
        bank, batch = lay(backbone, questions)
        with backbone.using(bank):
            states = backbone.encoder_states(batch)
        owners = torch.tensor([i for i, one in enumerate(rankings) for _ in one.targets], device=backbone.device)
        targets = [target for one in rankings for target in one.targets]
        labels = backbone.pad_rows(targets, backbone.pad, left=False)
        rows = Batch(batch.ids[owners], batch.mask[owners], batch.layout, labels, (), ())
        scores = backbone.target_scores(states[owners], rows)  # (rows, t, v)
        begins = accumulate((len(one.targets) for one in rankings), initial=0)
        t = labels.shape[1]
        picks = [
            ((begin + pick.row) * t + pick.column, pick.id)
            for begin, one in zip(begins, rankings, strict=False)
            for pick in one.picks
        ]
        flat = scores.flatten(0, 1)
        return summed(rankings, read_picks(flat, [at for at, _ in picks], [token for _, token in picks]))


class Seq2SeqCohorts:
    """The same for a decoder with absolute positions (BART): those that joined together go on by themselves."""

    def __init__(self, backbone: Seq2Seq) -> None:
        self.backbone = backbone
        self._cohorts: list[Seq2SeqBatch] = []
        self._places: list[tuple[Seq2SeqBatch, int]] = []  # of each sequence

    def __len__(self) -> int:
        return len(self._places)

    def tokens(self, question: Question, new: int) -> int:
        return question.length + len(question.source) + new

    def room(self, question: Question) -> int | None:
        return None if self.backbone.context is None else self.backbone.context - 1

    def join(self, questions: Sequence[Question]) -> Tensor:
        cohort = Seq2SeqBatch(self.backbone)
        logits = cohort.join(questions)
        self._cohorts.append(cohort)
        self._places += [(cohort, i) for i in range(len(questions))]
        return logits

    def step(self, tokens: Sequence[int]) -> Tensor:
        logits: dict[int, Tensor] = {}
        for cohort in self._cohorts:
            mine = [(place[1], i) for i, place in enumerate(self._places) if place[0] is cohort]
            made = cohort.step([tokens[i] for _, i in sorted(mine)])
            logits |= {i: made[row] for row, i in mine}
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

    def score(self, questions: Sequence[Question], rankings: Sequence[Ranking]) -> list[list[float]]:
        return Seq2SeqBatch(self.backbone).score(questions, rankings)


def _store(slots: Slots, made: DynamicCache, first: int, column: int, columns: int) -> None:
    """Copy what a call of its own computed into slots from `first` on, at `column`."""
    slots.reserve(first + len(made.layers[0].keys), column + columns)
    for layer, held in enumerate(made.layers):
        slots.fill(layer, first, column, held.keys, held.values)
