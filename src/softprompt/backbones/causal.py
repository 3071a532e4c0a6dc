"""Decoder-only backbones (GPT-2, Llama, Qwen, Gemma, ...).

A row is [padding][soft tokens][source][target], padded on the left, so that targets end in the last column
(softprompt.backbones.placement: other places for the soft tokens). That is the plain route. Where it can, a
batch is packed instead: one row without padding, each prompt computed once for all its examples
(softprompt.backbones.ops.packing).
"""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from softprompt.backbones.backbone import Backbone
from softprompt.backbones.batch import Batch, Losses, Observed, losses_of
from softprompt.backbones.families import Family, fills_masks, register_family, writes_text
from softprompt.backbones.logits_processors import reads_soft_ids
from softprompt.backbones.ops.attention import packed
from softprompt.backbones.ops.label_loss import label_nll
from softprompt.backbones.ops.packing import Memory, Packing, pack, pack_prompt, used
from softprompt.backbones.outputs import States
from softprompt.backbones.packing_check import why_not_packed
from softprompt.backbones.tokenization import Tokenization
from softprompt.methods.embedding import IGNORED, Layout
from softprompt.methods.soft_prompt import SoftPrompt
from softprompt.tasks.task import Example

MOST_CUES = 1000
"""Cues that are known to begin a turn of a chat, or not to."""


class CausalTokenization(Tokenization):
    """Tokens of a source and of a target that follows it in the same text."""

    def encode(self, text: str) -> list[int]:
        """Return the ids of `text` with the special tokens in front of it; those after it would end the answer too."""
        ids = super().encode(text)
        return ids[: len(ids) - self._closed] if self._closed else ids

    @cached_property
    def _closed(self) -> int:
        """Special tokens that the tokenizer puts at the end of a text."""
        whole, bare = super().encode(":"), self(":")
        starts = [i for i in range(len(whole)) if whole[i : i + len(bare)] == bare]
        return len(whole) - starts[-1] - len(bare) if bare and starts else 0

    def target_ids(self, example: Example) -> list[int]:
        """Return the ids of an example's target as it is learned; a choice as it is ranked, without end-of-sequence.

        A decoder-only model would begin with a log-probability of -20 or so for that token after a word of
        the template's answer, and spend its first steps on learning nothing but to stop.
        """
        if example.target not in example.choices:
            return super().target_ids(example)
        return self.choice_ids(example.choices, example.cue)[example.choices.index(example.target)]

    def continuation(self, text: str, cue: str = "") -> list[int]:
        """Return the ids of " text" after other text, or of "text" where it begins a turn of a chat.

        They are read off after an anchor, because some tokenizers (SentencePiece) mark the start of every text with a
        space of its own.
        """
        if not text.strip():
            return []
        turn = self.begins_turn(cue)
        anchor, whole = self("\n" if turn else ":"), self(self.continued(text, cue))
        return whole[len(anchor) :] if whole[: len(anchor)] == anchor else self(text if turn else f" {text}")

    def continued(self, text: str, cue: str = "") -> str:
        return f"\n{text}" if self.begins_turn(cue) else f": {text}"

    def begins_turn(self, cue: str) -> bool:
        if cue not in self._turns:  # asked for every example; a task has one cue, a tokenizer thousands of tokens
            special = [token.content for token in self.tokenizer.added_tokens_decoder.values() if token.special]
            begins = cue.endswith(("\n", *special)) and any(token in cue for token in special)
            self._turns = {**(self._turns if len(self._turns) < MOST_CUES else {}), cue: begins}
        return self._turns[cue]

    @cached_property
    def _turns(self) -> dict[str, bool]:
        return {}


class Causal(Backbone):
    """A decoder-only backbone: soft prompt, source and target are one row."""

    kind = "causal"
    tokenization = CausalTokenization

    def set_up(self) -> None:
        self.share = True
        """Pack where possible; False takes the plain route always."""
        self._packable: bool | None = None  # not tried yet
        self._memories: dict[SoftPrompt, Memory] | None = None  # a dict inside `frozen_prompts`
        # logits_to_keep hands the head a slice (transformers 5.23.0), and a linear layer on a slice copies its weight
        # once a row (torch 2.13.0).
        self.model.get_output_embeddings().register_forward_pre_hook(lambda _, given: (given[0].contiguous(),))  # type: ignore

    def loss(self, batch: Batch) -> Losses:
        return self.packed_losses(batch) if self.can_pack(batch.prompts) else self.plain_losses(batch)

    def plain_losses(self, batch: Batch) -> Losses:
        """Compute losses from padded rows, each with its own copy of its prompt: what packed losses must agree with."""
        return losses_of(batch, self.plain_scores(batch))

    def packed_losses(self, batch: Batch) -> Losses:
        """Compute losses from one packed row (softprompt.backbones.ops.packing)."""
        assert batch.labels is not None
        real = batch.labels != IGNORED
        packing = self._packing(batch)
        states = self._states(batch, packing)[packing.predicting]
        nll = label_nll(self.logits, states, batch.labels[real], self.v)
        return Losses(nll.new_zeros(len(real)).index_add(0, packing.owner, nll), real.sum(1))

    def observe(self, batch: Batch) -> Observed:
        assert batch.labels is not None
        real, n = batch.labels != IGNORED, batch.ids.shape[1]
        if self.can_pack(batch.prompts):
            packing = self._packing(batch)
            states = self._states(batch, packing)
            predicting, own = states[packing.predicting], states[packing.prompts :]
            row = packing.gather[packing.prompts :] // n
        else:
            states = self._plain_states(batch)
            heads = torch.tensor(batch.heads, device=self.device).unsqueeze(1)
            # What stands before is the same in all rows, and a last target token predicts nothing.
            text = batch.mask & (batch.ids < self.v) & (batch.mask.cumsum(1) > heads)
            text[:, -1] = False
            predicting, own, row = states[:, -real.shape[1] - 1 : -1][real], states[text], text.nonzero()[:, 0]
        scores = torch.log_softmax(self.logits(predicting).float(), -1)
        return Observed(scores, batch.labels[real], real.nonzero()[:, 0], own.float(), row)

    # Packed rows

    def can_pack(self, prompts: Sequence[int]) -> bool:
        """Tell whether rows with these prompts go through the network packed.

        Not with dropout (each example must draw its own), not for prompts that say they cannot (`SoftPrompt.can_pack`),
        not where rows cannot even be padded, and not on a backbone whose packed losses or gradients differ from the
        plain ones: that is tried once, and warned about. Nor for prompts after the source, whose states differ from
        example to example.
        """
        bank = self.embedding.bank
        if not self.share or self.model.training or self.placement == "after_source":
            return False
        if self.grouping != "padded" or not all(bank[i].can_pack for i in prompts if i >= 0):
            return False
        if self._packable is None:
            reason = why_not_packed(self, self.plain_losses, self.packed_losses)
            self._packable = reason is None
            if reason:
                warnings.warn(
                    f"{self.name} cannot compute a prompt once for all examples of a batch ({reason}). Each example "
                    "computes its own copy: the results are the same, but training is slower.",
                    stacklevel=2,
                )
        return self._packable

    @contextmanager
    def frozen_prompts(self) -> Iterator[None]:
        before, self._memories = self._memories, {}
        try:
            yield
        finally:
            self._memories = before

    def answer(
        self, examples: Sequence[Example], prompts: Sequence[int], *, max_new_tokens: int = 20, **options: object
    ) -> list[str]:
        """Generate an answer to each example (see `Backbone.answer`).

        In a `frozen_prompts` block, with one prompt for all examples and no options, the prompt is not read again.
        """
        width = self.embedding.bank.longest(prompts)
        one = len(set(prompts)) == 1 and width > 0 and not options
        usable = self._memories is not None and one and self.can_pack(prompts)
        cache = DynamicCache(config=self.model.config) if usable else None
        sources = self.source_rows(examples, prompts, [0] * len(examples))[0] if usable else []
        head = self._head_of(prompts[0])[0] if usable else []
        at = len(head) - width  # tokens of each source that stand before its prompt
        if cache is None or self._memories is None or any(cache.is_sliding) or min(map(len, sources)) <= at:
            return super().answer(examples, prompts, max_new_tokens=max_new_tokens, **options)
        # [BOS][soft tokens][padding][source]: all before the padding stands in the cache. Positions follow the mask.
        rests = [source[at:] for source in sources]
        text = self.pad_rows(rests, self.pad, left=True)
        mask = self.pad_rows([[1] * len(s) for s in rests], 0, left=True)
        position = self.pad_rows([list(range(at, at + len(s))) for s in rests], -1, left=True)
        ids = torch.cat([torch.tensor(head, device=self.device).expand(len(text), -1), text], dim=1)
        real = torch.cat([mask.new_ones(len(text), len(head)), mask], dim=1)
        layout = Layout(torch.tensor(list(prompts), device=self.device), position)
        reading = reads_soft_ids(self.model, real == 0, self.v + self.embedding.bank.size)
        with torch.no_grad(), reading:
            for layer, (keys, values) in enumerate(self._remembered(prompts[:1], self._memories).values()):
                cache.update(keys.expand(len(text), -1, -1, -1), values.expand(len(text), -1, -1, -1), layer)
            with self.embedding.laid_out(layout):
                made = self.model.generate(  # type: ignore[operator]
                    input_ids=ids, attention_mask=real, past_key_values=cache, max_new_tokens=max_new_tokens,
                    do_sample=False, pad_token_id=self.pad, synced_gpus=self.sharded,
                )  # fmt: skip
        assert cache.get_seq_length() >= ids.shape[1], "the prompt's keys and values were dropped on the way"
        return self.texts(made[:, ids.shape[1] :])

    def _packing(self, batch: Batch) -> Packing:
        lengths = batch.heads
        labels = [0] * len(lengths) if batch.labels is None else (batch.labels != IGNORED).sum(1).tolist()
        memory, named = None, used(batch.prompts, lengths)
        if named and self._memories is not None and not torch.is_grad_enabled():
            memory = self._remembered(named, self._memories)
        return pack(batch.mask, batch.prompts, lengths, labels, memory)

    def _states(self, batch: Batch, packing: Packing) -> Tensor:
        """Compute the last hidden states (n, d) of a packed batch."""
        with self.embedding.laid_out(batch.layout):
            embeds = self.embedding(batch.ids).flatten(0, 1)[packing.gather]
        return self._read_packed(batch.ids.flatten()[packing.gather], embeds, packing)

    def _read_packed(self, ids: Tensor, embeds: Tensor, packing: Packing) -> Tensor:
        """Compute the last hidden states (n, d) of a packed row of ids (n,) and their embeddings (n, d)."""
        with packed(packing), self.embedding.giving(ids.unsqueeze(0), embeds.unsqueeze(0)):
            states: Tensor = self.base(
                input_ids=ids.unsqueeze(0),
                attention_mask=packing.position.new_ones(1, len(embeds)),
                position_ids=packing.position.unsqueeze(0),
                use_cache=False,
            ).last_hidden_state
        return states.squeeze(0)

    def logits(self, states: Tensor) -> Tensor:
        """Compute logits (m, v) of hidden states (m, d), with whatever the model does after its linear layer."""
        # transformers 5.23.0 has no public way to run what follows the base model alone (scaled or capped logits), so
        # the base model returns the given states for this one call. With its output layer alone, the logits of Gemma 2
        # (capped) and Cohere (scaled) would be wrong.
        base = self.base
        base.forward = lambda *_, **__: States(last_hidden_state=states.unsqueeze(0))
        try:
            logits: Tensor = self.model(inputs_embeds=states.unsqueeze(0), use_cache=False).logits
        finally:
            del base.forward
        return logits.squeeze(0)

    @property
    def base(self) -> PreTrainedModel:
        """The network without its head."""
        base: PreTrainedModel = self.model.base_model
        # Llama 4 names a base model that it does not have (transformers 5.23.0), and is then its own.
        inner: PreTrainedModel = getattr(self.model, "model", base)
        return base if base is not self.model else inner

    def _remembered(self, prompts: Sequence[int], memories: dict[SoftPrompt, Memory]) -> Memory:
        """Return keys and values of `prompts`, one after another; each is read once in a `frozen_prompts` block."""
        bank = self.embedding.bank
        for i in prompts:
            if bank[i] not in memories:
                head, ranks = self._head_of(i)
                ids = torch.tensor([head], device=self.device)
                layout = Layout(torch.tensor([i], device=self.device), torch.tensor([ranks], device=self.device))
                packing = pack_prompt(ids.shape[1], self.device)
                with self.embedding.laid_out(layout):
                    self._read_packed(ids[0], self.embedding(ids)[0], packing)
                assert packing.recorded, "no attention layer kept the prompt's keys and values"
                memories[bank[i]] = packing.recorded
        found = [memories[bank[i]] for i in prompts]
        return {
            layer: (torch.cat([one[layer][0] for one in found], 1), torch.cat([one[layer][1] for one in found], 1))
            for layer in found[0]
        }

    def _head_of(self, prompt: int) -> tuple[list[int], list[int]]:
        """Return what all rows of a prompt begin with, its soft tokens last: ids, and ranks of the source tokens."""
        before = self.tokens.opening if self.placement == "after_bos" else []
        soft = self.embedding.bank.soft_ids(prompt, self.v)
        return [*before, *soft], [*range(len(before)), *[-1] * len(soft)]

    def log_probabilities(self, batch: Batch) -> Tensor:
        assert batch.labels is not None
        if self.can_pack(batch.prompts):
            packing = self._packing(batch)
            own = torch.log_softmax(self.logits(self._states(batch, packing)[packing.predicting]).float(), -1)
            whole = own.new_zeros(*batch.labels.shape, own.shape[-1])
            whole[batch.labels != IGNORED] = own
            return whole
        return self.plain_scores(batch)

    def plain_scores(self, batch: Batch) -> Tensor:
        if self.grouping == "padded":
            return self._scores(batch, **self._mask_and_positions(batch))
        return self.in_groups(batch, self.own_scores)

    def own_scores(self, batch: Batch) -> Tensor:
        return self._scores(batch)

    def _scores(self, batch: Batch, **given: Tensor) -> Tensor:
        assert batch.labels is not None
        with self.embedding.laid_out(batch.layout):
            logits = self.model(
                input_ids=batch.ids,
                use_cache=False,
                logits_to_keep=batch.labels.shape[1] + 1,  # only label positions pass the head
                **given,
            ).logits
        return torch.log_softmax(logits[:, -batch.labels.shape[1] - 1 : -1].float(), -1)

    def _plain_states(self, batch: Batch) -> Tensor:
        """Compute the last hidden states (b, n, d) of a batch, each row with its own copy of its prompt."""

        def compute(own: Batch, **given: Tensor) -> Tensor:
            with self.embedding.laid_out(own.layout):
                states: Tensor = self.base(input_ids=own.ids, use_cache=False, **given).last_hidden_state
            return states

        if self.grouping == "padded":
            return compute(batch, **self._mask_and_positions(batch))
        return self.in_groups(batch, compute)

    def read_layers(self, batch: Batch) -> tuple[Tensor, ...] | None:
        given = self._mask_and_positions(batch)
        made = self.base(input_ids=batch.ids, use_cache=False, output_hidden_states=True, **given)
        states: tuple[Tensor, ...] | None = made.hidden_states
        return states

    def _mask_and_positions(self, batch: Batch) -> dict[str, Tensor]:
        positions = (batch.mask.cumsum(1) - 1).clamp(min=0)
        return {"attention_mask": batch.mask.long(), "position_ids": positions}


register_family(
    Family(
        name="causal",
        title="a decoder-only model",
        models="Llama, Qwen, Gemma, GPT-2",
        backbone=Causal,
        auto_class="AutoModelForCausalLM",
        recognizes=lambda config: not config.is_encoder_decoder and writes_text(config) and not fills_masks(config),
        decoder_only=True,
        ends_choices=False,
        peft_task="CAUSAL_LM",
    )
)
