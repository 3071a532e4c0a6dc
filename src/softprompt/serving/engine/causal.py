"""Run a batch that sequences join and leave on a decoder-only backbone, over slots of keys and values.

A sequence's slot is [its head][the rest of its source][what was generated]. Its head is its prompt, with the BOS token
where that stands before it: what does not look at the input has the same keys and values for every source, so they are
computed once and kept (softprompt.serving.engine.prefix_cache). The rows of other prompts go through the network
with the source.
"""

from collections.abc import Generator, Hashable, Iterator, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from softprompt.backbones import Causal
from softprompt.backbones.ops.exact_head import exact_head
from softprompt.backbones.ops.length_groups import group_lengths
from softprompt.errors import NotFinite
from softprompt.methods.embedding import Layout
from softprompt.runtime.logging import quiet_loading
from softprompt.serving.engine.batching import Batching
from softprompt.serving.engine.kv_slots import NAME, Slots
from softprompt.serving.engine.prefix_cache import PromptCache
from softprompt.serving.engine.ranking import LOGITS, ChoiceScores, Pick, Ranking, Scoring
from softprompt.serving.engine.sampler import SampledToken, Sampler, Sampling
from softprompt.serving.engine.sequence import Question, bank_of

OVERGROWN = (
    "The values of this prompt are too large for the backbone: its states are no longer numbers. Train it again with "
    "lower rates."
)


class _Row(NamedTuple):
    """The part of a question that still goes through the network."""

    question: Question
    tail: Sequence[int] = ()
    """Target tokens after the source."""
    front: Tensor | None = None
    """Keys and values of the question's head (layers, 2, key heads, columns, head size), where it is known."""

    @property
    def start(self) -> int:
        """Columns that are filled already."""
        return 0 if self.front is None else self.front.shape[3]

    @property
    def tokens(self) -> int:
        """Columns that the network still fills."""
        return self.question.length + len(self.question.source) + len(self.tail) - self.start

    @property
    def uses_prompt(self) -> bool:
        """Whether its embeddings depend on its prompt; those of other rows are the table's alone."""
        prompt = self.question.prompt
        return prompt is not None and (prompt.offset is not None or (self.front is None and prompt.length > 0))


class _Ranked(NamedTuple):
    """A row of a question whose choices are ranked, and what is read of its last states, one after another."""

    owner: int
    row: _Row
    picks: list[list[Pick]]


class CausalBatch:
    """Run sequences in slots 0, 1, ... of a decoder-only backbone."""

    def __init__(self, backbone: Causal, cache: PromptCache, batching: Batching) -> None:
        self.backbone, self.cache, self.batching = backbone, cache, batching
        self.slots, self._scratch = Slots(_layers(backbone)), Slots(_layers(backbone), lasting=False)
        self._lengths: list[int] = []  # of each sequence, its prompt included
        with quiet_loading():  # transformers notes every change of the attention
            backbone.model.set_attn_implementation(NAME)  # type: ignore[operator]

    def __len__(self) -> int:
        return len(self._lengths)

    def tokens(self, question: Question, new: int) -> int:
        """Count the columns that a sequence takes in the end."""
        return question.length + len(question.source) + new

    def room(self, question: Question) -> int | None:
        """Return the most tokens that can follow a source; None: no limit."""
        return None if self.backbone.context is None else self.backbone.context - self.tokens(question, 0)

    def join(self, questions: Sequence[Question]) -> Tensor:
        """Add sequences after those there are; return the logits (g, v) of their first tokens, in float32.

        Neighbors of similar length are read together: padding is least where they are sorted.
        """
        rows = [_Row(question, (), front) for question, front in zip(questions, self._fronts(questions), strict=True)]
        lasts = []
        for begin, end in self._groups(rows):
            states = self._run(self.slots, len(self) + begin, rows[begin:end])
            ends = accumulate(row.tokens for row in rows[begin:end])
            lasts.append(states[[at - 1 for at in ends]])
        self._lengths += [row.start + row.tokens for row in rows]
        return self.backbone.logits(torch.cat(lasts)).float()

    def step(self, tokens: Sequence[int]) -> Tensor:
        """Give each sequence its next token; return the logits (b, v) of the ones after, in float32."""
        device = self.backbone.device
        embeds = self.backbone.embedding.table(torch.tensor(tokens, device=device).unsqueeze(1))
        columns = torch.tensor(self._lengths, device=device).unsqueeze(1)
        states = self._call(self.slots, slice(0, len(self)), embeds, columns, columns, max(self._lengths) + 1)
        self._lengths = [length + 1 for length in self._lengths]
        return self.backbone.logits(states[:, 0]).float()

    def leave(self, index: int) -> None:
        """Remove sequence `index`; the last one takes its place."""
        last = len(self) - 1
        if index != last:
            self.slots.move(last, index)
            self._lengths[index] = self._lengths[last]
        self.slots.blank(last)  # a masked column still counts as 0 times what stands there, and that may be NaN
        self._lengths.pop()
        if not self._lengths:
            self.slots.clear()

    def clear(self) -> None:
        """Remove all sequences and give their memory back."""
        self._lengths = []
        self.slots.clear()
        self._scratch.clear()

    def score(self, questions: Sequence[Question], rankings: Sequence[Ranking]) -> Scoring:
        """Compute the log-probability of each choice of each question.

        A source is read once: where its choices take several targets, those follow its keys and values.
        """
        scores = ChoiceScores(rankings)
        once, several = list[_Ranked](), list[int]()
        for i, (question, front, ranking) in enumerate(zip(questions, self._fronts(questions), rankings, strict=True)):
            if len(ranking.targets) == 1:
                (target,) = ranking.targets
                picks = [scores.picks(i, 0, column) for column in range(len(target))]
                once.append(_Ranked(i, _Row(question, target[:-1], front), picks))
            else:
                begins = [pick for row in range(len(ranking.targets)) for pick in scores.picks(i, row, 0)]
                once.append(_Ranked(i, _Row(question, (), front), [begins]))
                several.append(i)
        sources: dict[int, Tensor] = dict.fromkeys(several, torch.empty(0))
        yield from self._read_picks(once, scores, sources)
        rest = [
            _Ranked(i, _Row(questions[i], target[:-1], sources[i]), [
                scores.picks(i, row, column) for column in range(1, len(target))
            ])
            for i in several
            for row, target in enumerate(rankings[i].targets)
            if len(target) > 1
        ]  # fmt: skip
        if rest:
            yield
            yield from self._read_picks(rest, scores, {})
        return scores.found

    def echo(self, questions: Sequence[Question], top: int) -> Generator[None, None, list[list[SampledToken]]]:
        """Report each source's tokens with the `top` likeliest ones beside each, then the likeliest one to follow."""
        found: list[list[SampledToken]] = [[] for _ in questions]
        order = sorted(range(len(questions)), key=lambda i: self.tokens(questions[i], 0))
        rows = [_Row(questions[i]) for i in order]
        for begin, end in self._groups(rows):
            if begin:
                yield
            states = self._run(self._scratch, 0, rows[begin:end])
            stops = accumulate((row.tokens for row in rows[begin:end]), initial=0)
            for i, row, first in zip(order[begin:end], rows[begin:end], stops, strict=False):
                found[i] = self._echo(row.question, states[first : first + row.tokens], top)
        return found

    def _echo(self, question: Question, states: Tensor, top: int) -> list[SampledToken]:
        """Report a source from the states (tokens, d) of its row."""
        source, before = question.source, question.before
        places = [i if i < before else i + question.length for i in range(len(source))]
        known = [(place - 1, token) for place, token in zip(places, source, strict=True) if place]
        found = [SampledToken(source[0])] if len(known) < len(source) else []
        asked: list[tuple[int, int | None]] = [*known, (len(states) - 1, None)]
        reporter = Sampler(Sampling(logprobs=top))
        for at, logits in self._logits(states[[place for place, _ in asked]]):
            for (_, token), row in zip(asked[at:], logits.cpu(), strict=False):
                found.append(reporter.report(int(row.argmax()) if token is None else token, row))
        return found

    def _logits(self, states: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Compute logits (m, v) of states in float32, m at a time so that they fit; with the index of the first."""
        piece = max(LOGITS // self.backbone.v, 1)
        for at in range(0, len(states), piece):
            with exact_head(self.backbone.model):
                logits = self.backbone.logits(states[at : at + piece]).float()
            yield at, logits

    def _read_picks(
        self, ranked: Sequence[_Ranked], scores: ChoiceScores, sources: dict[int, Tensor]
    ) -> Generator[None, None, None]:
        """Read rows, add to `scores` what is picked of their last states, and keep the keys and values of `sources`."""
        ranked = sorted(ranked, key=lambda one: one.row.tokens)
        for begin, end in self._groups([one.row for one in ranked]):
            if begin:
                yield
            group = ranked[begin:end]
            states = self._run(self._scratch, 0, [one.row for one in group])
            ends = list(accumulate(one.row.tokens for one in group))
            for slot, one in enumerate(group):
                if one.owner in sources:
                    sources[one.owner] = self._scratch.take(slot, one.row.start + one.row.tokens)
            places = [
                (at, (one.owner, picks))
                for one, stop in zip(group, ends, strict=True)
                for at, picks in zip(range(stop - len(one.picks), stop), one.picks, strict=True)
            ]
            for first, logits in self._logits(states[[at for at, _ in places]]):
                own = [owner for _, owner in places[first : first + len(logits)]]
                scores.add(own, torch.log_softmax(logits, -1))

    def _groups(self, rows: Sequence[_Row]) -> Iterator[tuple[int, int]]:
        """Find the runs of neighbors (begin, end) that go through the network together."""
        pass_cost = 32 if self.backbone.device.type == "cpu" else 512  # tokens that one more pass costs
        start = max(row.start for row in rows)
        return group_lengths(
            [row.tokens for row in rows],
            lambda g, s: g * s + pass_cost,
            lambda g, s: g * s <= self.batching.pass_tokens and g * (start + s) <= self.batching.tokens,
        )

    def _run(self, slots: Slots, first: int, rows: Sequence[_Row]) -> Tensor:
        """Read rows into slots from `first` on; return the states of all their tokens (sum of tokens, d)."""
        device, t = self.backbone.device, max(row.tokens for row in rows)
        width = max(row.start for row in rows) + t
        slots.reserve(first + len(rows), max([width, *(self._lengths if first else ())]))
        for slot, row in enumerate(rows, first):
            if row.front is not None:
                slots.put(slot, row.front)
            slots.blank(slot, row.start + t)  # what other rows left there
        starts = torch.tensor([row.start for row in rows]).unsqueeze(1)
        sizes = torch.tensor([row.tokens for row in rows]).unsqueeze(1)
        own = torch.arange(t).expand(len(rows), -1)
        # Padding stands after a row's tokens, in columns that its own next tokens overwrite before they are seen;
        # its positions are those of real tokens, as a table of positions may end there.
        columns, positions = starts + own, starts + torch.minimum(own, sizes - 1)
        states = self._call(
            slots, slice(first, first + len(rows)), self._embed(rows, t), columns.to(device), positions.to(device),
            width,
        )  # fmt: skip
        return states[(own < sizes).to(device)]

    def _embed(self, rows: Sequence[_Row], t: int) -> Tensor:
        """Embed rows (g, t, d)."""
        backbone, device = self.backbone, self.backbone.device
        bank, _ = bank_of([row.question for row in rows if row.uses_prompt])
        index = {soft_prompt: i for i, soft_prompt in enumerate(bank)}
        named = [index[row.question.prompt] if row.uses_prompt and row.question.prompt else -1 for row in rows]
        ids, ranks = [], []
        for row, prompt in zip(rows, named, strict=True):
            soft = bank.soft_ids(prompt, backbone.v) if prompt >= 0 else [backbone.pad] * row.question.length
            ids.append(row.question.ids(soft, row.tail)[row.start :])
            ranks.append(row.question.ranks(row.tail)[row.start :])
        layout = Layout(torch.tensor(named, device=device), backbone.pad_rows(ranks, -1, left=False))
        with backbone.using(bank), backbone.embedding.laid_out(layout):
            embeds: Tensor = backbone.embedding(backbone.pad_rows(ids, backbone.pad, left=False))
        return embeds

    def _call(
        self, slots: Slots, rows: slice, embeds: Tensor, columns: Tensor, positions: Tensor, width: int
    ) -> Tensor:
        """Compute the last states (g, t, d) of embeddings (g, t, d) that follow what the rows' slots hold."""
        base = self.backbone.model.base_model
        assert isinstance(base, nn.Module)
        with slots.reading(rows, columns, width):
            states: Tensor = base(
                inputs_embeds=embeds, position_ids=positions, past_key_values=slots.cache, use_cache=True
            ).last_hidden_state
        return states

    def _fronts(self, questions: Sequence[Question]) -> list[Tensor | None]:
        """Get keys and values of each question's head; those that are not cached are computed, all of them together."""
        heads = [question.head() for question in questions]
        found: dict[Hashable, Tensor] = {}
        missing: dict[Hashable, Question] = {}
        for head in heads:
            if head is None or head.key in found or head.key in missing:
                continue
            cached = self.cache.get(head.key)
            if cached is None:
                missing[head.key] = head
            else:
                found[head.key] = cached
        if missing:
            self._run(self._scratch, 0, [_Row(head) for head in missing.values()])
            for slot, (key, head) in enumerate(missing.items()):
                found[key] = self._scratch.take(slot, self.tokens(head, 0))
                if not found[key].isfinite().all():
                    raise NotFinite(OVERGROWN)
                self.cache.put(key, found[key])
        return [None if head is None else found[head.key] for head in heads]


def _layers(backbone: Causal) -> int:
    config: Any = backbone.model.config  # of transformers, which is not typed
    return int(config.get_text_config().num_hidden_layers)
