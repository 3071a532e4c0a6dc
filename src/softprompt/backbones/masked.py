"""Masked backbones (BERT, RoBERTa, MiniLM, ModernBERT, ...) read on both sides of a gap and fill it.

A row is [soft tokens][CLS][source][masks][rest of the source][SEP][padding]; softprompt.backbones.cloze says where the
masks stand. A choice of t tokens is read at t masks, side by side: its score is the mean log-probability of
its tokens, each at its own mask, all read in one pass and none of them seeing the others. So choices of equally many
tokens share a row, and those of other lengths have a row of their own in the same batch. What is learned is the
cross entropy of the right choice's tokens at as many masks.

The mean, not the sum: the sum would prefer the shorter choice whatever the text is. Where all choices are one token
long, there is one mask, and it is the log-probability itself.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import ModelOutput

from softprompt.backbones.backbone import Backbone
from softprompt.backbones.batch import Batch
from softprompt.backbones.cloze import as_cloze
from softprompt.backbones.families import Family, fills_masks, register_family
from softprompt.backbones.ops.exact_head import exact_head
from softprompt.backbones.tokenization import Tokenization
from softprompt.errors import BadInput
from softprompt.methods.embedding import IGNORED, Layout
from softprompt.tasks.task import Example


class Gapped(NamedTuple):
    """Ids around the gap, special tokens included, and whether any of the source were cut."""

    before: list[int]
    after: list[int]
    cut: bool


class MaskedTokenization(Tokenization):
    """Tokens on both sides of a gap, and of the choices that may stand in it."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, family: Family, name: str, max_source: int) -> None:
        super().__init__(tokenizer, family, name, max_source)
        self.mask: str | None = tokenizer.mask_token
        if self.mask is None:
            raise BadInput(f"The tokenizer of {name} has no mask token, so there is no gap to fill.")

    def read_sources(self, examples: Sequence[Example]) -> None:
        clozes = [as_cloze(example) for example in examples]
        self.parts.read(self._until_gap(one.before) for one in clozes)
        self.parts.read(f"{self.mask}{one.after}" for one in clozes)

    def target_ids(self, example: Example) -> list[int]:
        self.check_example(example)
        if example.target not in example.choices:
            raise BadInput(f"The target {example.target!r} is none of the choices {', '.join(example.choices)}.")
        return self.choice_ids(example.choices, example.cue)[example.choices.index(example.target)]

    def continuation(self, text: str, cue: str = "") -> list[int]:
        """Return the ids of `text` in a gap, as a word after a blank."""
        return self._after(f" {text}") if text.strip() else []

    def gapped(self, example: Example, room: int) -> Gapped:
        """Return an example's ids on both sides of its gap, at most `room` of them.

        The source is cut from its end: after the gap first, then before it. The cue stays. Raises BadInput where the
        cue leaves no room.
        """
        cloze, closing = as_cloze(example), self.closing()
        before, after = self._before(cloze.before), self._after(cloze.after)
        over = len(self.opening) + len(before) + len(after) + len(closing) - room
        if over > 0:
            lead, close = self._before(cloze.lead), self._after(cloze.close)
            kept = room - len(self.opening) - len(lead) - len(close) - len(closing)
            if kept < 1:
                raise BadInput(f"A source limit of {room} tokens leaves no room beside the cue {example.cue!r}.")
            head = self._before(cloze.head)[:kept]
            before, after = head + lead, self._after(cloze.tail)[: kept - len(head)] + close
        return Gapped([*self.opening, *before], [*after, *closing], over > 0)

    def source_ids(self, example: Example, room: int) -> tuple[list[int], bool]:
        """Return the ids around the gap, and whether any were cut; the masks are not part of the source."""
        found = self.gapped(example, room)
        return [*found.before, *found.after], found.cut

    def size(self, example: Example, *, targets: bool) -> int:
        cloze = as_cloze(example)
        around = len(self.opening) + len(self.closing())
        source = around + len(self._before(cloze.before)) + len(self._after(cloze.after))
        return min(source, self.max_source) + self.longest(example)

    def _before(self, text: str) -> list[int]:
        return self(self._until_gap(text))[:-1]

    def _until_gap(self, text: str) -> str:
        """End a text at the gap; the blank before it belongs to the word in it (see `continuation`)."""
        return f"{text.rstrip(' ')}{self.mask}"

    def _after(self, text: str) -> list[int]:
        return self(f"{self.mask}{text}")[1:]

    def closing(self) -> list[int]:
        whole = self.encode(":")
        return whole[len(self.opening) + len(self(":")) :]

    def separate(self, ids: list[list[int]]) -> list[list[int]]:
        return ids  # one that begins another is read at fewer masks

    def longest(self, example: Example) -> int:
        """Count the tokens of the longest choice; 1 without choices."""
        return max(map(len, self.choice_ids(example.choices, example.cue)), default=1)


class Masked(Backbone):
    """A backbone that fills the gap of a cloze with one of the choices."""

    kind = "masked"
    tokenization = MaskedTokenization
    tokens: MaskedTokenization

    def set_up(self) -> None:
        tables = [m for name, m in self.model.named_modules() if name.endswith("position_embeddings")]
        indices = [m.padding_idx for m in tables if isinstance(m, nn.Embedding)]
        self._unused = max((i + 1 for i in indices if i is not None), default=0)  # RoBERTa's begin after the padding's

    # The four verbs

    def answer(
        self, examples: Sequence[Example], prompts: Sequence[int], *, max_new_tokens: int = 20, **options: object
    ) -> list[str]:
        """Return the likeliest choice of each example. Raises BadInput without choices, and for generation options."""
        for example in examples:
            self.check_example(example)
        if options:
            raise BadInput(f"{self.name} generates nothing; it takes no {', '.join(options)}.")
        best = self.rank(examples, prompts).argmax(1).tolist()
        return [example.choices[i] for example, i in zip(examples, best, strict=True)]

    def rank(self, examples: Sequence[Example], prompts: Sequence[int]) -> Float[Tensor, "b choices"]:
        """Compute the mean log-probability of each choice's tokens, in nats; all must have equally many choices."""
        for example in examples:
            self.check_example(example)
        choices = [self.tokens.choice_ids(e.choices, e.cue) for e in examples]
        rows = [(i, t) for i, group in enumerate(choices) for t in sorted({len(ids) for ids in group})]
        with torch.no_grad(), exact_head(self.model):
            gaps = [[self.pad] * t for _, t in rows]
            batch = self.pose_ids([examples[i] for i, _ in rows], [prompts[i] for i, _ in rows], gaps)
            scores = self.log_probabilities(batch)  # (rows, t, v)
        of = dict(zip(rows, scores, strict=True))
        return torch.stack([torch.stack([_mean(of[i, len(ids)], ids) for ids in g]) for i, g in enumerate(choices)])

    def ranking_rows(self, example: Example) -> int:
        """Count the rows that ranking computes for `example`: one per number of tokens among its choices."""
        return len({len(ids) for ids in self.tokens.choice_ids(example.choices, example.cue)})

    @property
    def context(self) -> int | None:
        """Positions for soft tokens, source and masks together; None when unlimited."""
        limit = super().context
        return None if limit is None else limit - self._unused

    # Rows

    def pose_ids(
        self,
        examples: Sequence[Example],
        prompts: Sequence[int],
        targets: Sequence[Sequence[int]] | None,
        reserved: Sequence[int] | None = None,
    ) -> Batch:
        """Lay out rows with a mask for each target token; without targets, for each token of the longest choice.

        Room is left for the longest choice either way: how much is read of a source depends on its own prompt and
        choices alone, not on the rest of the batch.
        """
        bank = self.embedding.bank
        longest = [self.tokens.longest(example) for example in examples]
        gapped = [
            self.tokens.gapped(example, min(self.max_source, self.room(bank.longest([prompt]), most)))
            for example, prompt, most in zip(examples, prompts, longest, strict=True)
        ]
        return self._lay_gapped(gapped, prompts, targets, longest)

    def lay(
        self,
        sources: Sequence[Sequence[int]],
        prompts: Sequence[int],
        targets: Sequence[Sequence[int]] | None,
        truncated: tuple[bool, ...],
    ) -> Batch:
        """Make a batch of ids whose gap stands at each source's end."""
        gapped = [Gapped(list(source), [], cut) for source, cut in zip(sources, truncated, strict=True)]
        return self._lay_gapped(gapped, prompts, targets, [1] * len(gapped))

    def _lay_gapped(
        self,
        gapped: Sequence[Gapped],
        prompts: Sequence[int],
        targets: Sequence[Sequence[int]] | None,
        masks: Sequence[int],
    ) -> Batch:
        """Make a batch; a row has as many masks as its target has tokens, or `masks` of them without targets."""
        bank, mask = self.embedding.bank, self.tokenizer.mask_token_id
        rows, ranks, columns, cut = [], [], [], []
        for k, (found, prompt) in enumerate(zip(gapped, prompts, strict=True)):
            t, at = masks[k] if targets is None else len(targets[k]), self.tokens_before(found.before)
            soft, s = bank.soft_ids(prompt, self.v), len(found.before)
            rows.append([*found.before[:at], *soft, *found.before[at:], *[mask] * t, *found.after])
            ranks.append([*range(at), *[-1] * len(soft), *range(at, s), *[-1] * t, *range(s, s + len(found.after))])
            columns.append(list(range(s + len(soft), s + len(soft) + t)))
            cut.append(found.cut)
        real = self.pad_rows([[1] * len(row) for row in rows], 0, left=False).bool()
        layout = Layout(torch.tensor(list(prompts), device=self.device), self.pad_rows(ranks, -1, left=False))
        labels = None if targets is None else self.pad_rows(targets, IGNORED, left=False)
        ids = self.pad_rows(rows, self.pad, left=False)
        return Batch(
            ids, real, layout, labels, tuple(prompts), tuple(cut), answer_columns=self.pad_rows(columns, 0, left=False)
        )  # fmt: skip

    def log_probabilities(self, batch: Batch) -> Float[Tensor, "b t v"]:
        if self.grouping == "padded":
            return self._filled(batch, attention_mask=batch.mask.long())
        return self.in_groups(batch, self.own_scores)

    def own_scores(self, batch: Batch) -> Float[Tensor, "b t v"]:
        return self._filled(batch)

    def _filled(self, batch: Batch, **given: Tensor) -> Tensor:
        """Compute log-probabilities (b, t, v) at the answer's columns.

        Position ids and token types are the model's own: columns from its first position on, and all of type 0.
        """
        assert batch.answer_columns is not None
        with self.embedding.laid_out(batch.layout), self._reading(batch.answer_columns):
            logits: Tensor = self.model(input_ids=batch.ids, **given).logits
        return torch.log_softmax(logits.float(), -1)

    @contextmanager
    def _reading(self, columns: Int[Tensor, "b t"]) -> Iterator[None]:
        """Let the head see the states of the columns `columns` alone.

        Without it the head computes the logits of every column: logits_to_keep of transformers 5.23.0, where a masked
        model has it, keeps the same columns of all rows.
        """

        def pick(_: nn.Module, __: object, made: ModelOutput | tuple[Tensor, ...]) -> object:
            states = made[0]
            picked = states.gather(1, columns.unsqueeze(-1).expand(-1, -1, states.shape[-1]))
            if isinstance(made, tuple):
                return (picked, *made[1:])
            made.last_hidden_state = picked
            return made

        base: PreTrainedModel = self.model.base_model
        handle = base.register_forward_hook(pick)
        try:
            yield
        finally:
            handle.remove()


def _mean(scores: Float[Tensor, "t v"], ids: Sequence[int]) -> Tensor:
    return scores[list(range(len(ids))), list(ids)].mean()


register_family(
    Family(
        name="masked",
        title="a masked model",
        models="BERT, RoBERTa, ModernBERT",
        backbone=Masked,
        auto_class="AutoModelForMaskedLM",
        recognizes=lambda config: not config.is_encoder_decoder and fills_masks(config),
        generates=False,
        fills_gaps=True,
        shards=False,
    )
)
