"""Encoder-decoder backbones (T5, BART, ...).

The encoder reads [soft tokens][source][padding]; the decoder, untouched, writes the target.
"""

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import Seq2SeqLMOutput

from softprompt.backbones.backbone import Backbone
from softprompt.backbones.batch import Batch, Observed
from softprompt.backbones.families import Family, register_family
from softprompt.backbones.ops.length_groups import group_lengths
from softprompt.backbones.outputs import States
from softprompt.backbones.tokenization import Tokenization
from softprompt.errors import BadInput
from softprompt.methods.embedding import IGNORED, Layout
from softprompt.tasks.task import Example


class Seq2SeqTokenization(Tokenization):
    """Tokens of an encoder's source, which ends with end-of-sequence, and of a decoder's target."""

    def closing(self) -> list[int]:
        empty = self.encode("")
        return empty[-1:] if empty[-1:] == [self.tokenizer.eos_token_id] else []


class Seq2Seq(Backbone):
    """An encoder-decoder: soft prompts stand in the encoder."""

    kind = "seq2seq"
    tokenization = Seq2SeqTokenization

    def encoder_states(self, batch: Batch) -> Tensor:
        """Compute encoder states (b, n, d): rows of like length go through the encoder together.

        The decoder is then run once for all: its targets are short, and it reads all of its weights each time.
        """
        with self.embedding.laid_out(batch.layout):
            embeds = self.embedding(batch.ids)  # (b, n, d)
        encoder: PreTrainedModel = self.model.get_encoder()  # type: ignore[operator]
        lengths: list[int] = batch.mask.sum(1).tolist()
        order = sorted(range(len(lengths)), key=lengths.__getitem__)
        each = run_tokens(self.device)
        found = []
        whole = [(0, len(order))]  # sharded layers are called as often in every process
        runs = whole if self.sharded else group_lengths([lengths[i] for i in order], lambda g, s: g * s + each)
        groups = [order[begin:end] for begin, end in runs] if self.grouping == "padded" else self.row_groups(batch)
        for rows in groups:
            s = lengths[rows[-1]]
            with self.embedding.giving(batch.ids[rows, :s], embeds[rows, :s]):
                output = encoder(input_ids=batch.ids[rows, :s], attention_mask=batch.mask[rows, :s].long())
            # Some round up to whole blocks of attention.
            states = (output[0] if isinstance(output, tuple) else output.last_hidden_state)[:, :s]
            found.append(nn.functional.pad(states, (0, 0, 0, batch.ids.shape[1] - s)))
        done = [i for rows in groups for i in rows]
        return torch.cat(found)[torch.tensor(done, device=self.device).argsort()]

    def read_layers(self, batch: Batch) -> tuple[Tensor, ...] | None:
        encoder = self.model.get_encoder()  # type: ignore[operator]
        made = encoder(input_ids=batch.ids, attention_mask=batch.mask.long(), output_hidden_states=True)
        states: tuple[Tensor, ...] | None = getattr(made, "hidden_states", None)
        return states

    def log_probabilities(self, batch: Batch) -> Tensor:
        return self.target_scores(self.encoder_states(batch), batch)

    def observe(self, batch: Batch) -> Observed:
        assert batch.labels is not None
        real, text = batch.labels != IGNORED, batch.mask & (batch.ids < self.v)
        encoded = self.encoder_states(batch)
        made = self._outputs(encoded, batch, output_hidden_states=True)
        own = torch.cat([encoded[text], made.decoder_hidden_states[-1][real]])
        owner = real.nonzero()[:, 0]
        scores = torch.log_softmax(made.logits[real].float(), -1)
        return Observed(scores, batch.labels[real], owner, own.float(), torch.cat([text.nonzero()[:, 0], owner]))

    def target_scores(self, states: Tensor, batch: Batch) -> Tensor:
        """Compute log-probabilities (b, t, v) of targets over encoder states (b, n, d), in nats and float32."""
        return torch.log_softmax(self._outputs(states, batch).logits.float(), -1)

    def _outputs(self, states: Tensor, batch: Batch, **options: bool) -> Seq2SeqLMOutput:
        """Run the decoder with the labels as its input; returns the model's output object."""
        assert batch.labels is not None
        return self.model(
            encoder_outputs=States(last_hidden_state=states), attention_mask=batch.mask.long(),
            decoder_input_ids=self._decoder_inputs(batch.labels), use_cache=False, **options,
        )  # fmt: skip

    def own_scores(self, batch: Batch) -> Tensor:
        assert batch.labels is not None
        with self.embedding.laid_out(batch.layout):
            logits = self.model(
                input_ids=batch.ids, decoder_input_ids=self._decoder_inputs(batch.labels), use_cache=False
            ).logits
        return torch.log_softmax(logits.float(), -1)

    def _decoder_inputs(self, labels: Tensor) -> Tensor:
        known = labels.masked_fill(labels == IGNORED, self.pad)
        return torch.cat([known.new_full((len(known), 1), self.decoder_start), known[:, :-1]], dim=1)

    @cached_property
    def decoder_start(self) -> int:
        """The id that the decoder begins with. Raises BadInput for a model that names none."""
        config, generation = self.model.config, getattr(self.model, "generation_config", None)
        for name in ("decoder_start_token_id", "bos_token_id"):
            for place in (config, generation):
                start: int | None = getattr(place, name, None)
                if start is not None:
                    return start
        raise BadInput(
            f"{self.name} does not say which token its decoder begins with. Set decoder_start_token_id in its "
            "config.json."
        )

    def room(self, length: int, target: int) -> int:
        if self.context is None:  # T5's positions are relative: its encoder has no limit of its own
            return self.max_source
        left = self.context - length
        if left < 1:
            raise BadInput(
                f"{self.name} has {self.context} encoder positions; a prompt of {length} rows leaves none for the "
                "source. Shorten the prompt."
            )
        return left

    def _rank_rows(self, examples: Sequence[Example], prompts: Sequence[int], choices: list[list[list[int]]]) -> Tensor:
        # The encoder runs once an example; its states serve all choices.
        width = len(choices[0])
        batch = self.pose(examples, prompts)
        states = self.encoder_states(batch).repeat_interleave(width, 0)
        labels = self.pad_rows([ids for group in choices for ids in group], IGNORED, left=False)
        layout = Layout(batch.layout.prompt.repeat_interleave(width), batch.layout.position.repeat_interleave(width, 0))
        rows = Batch(
            batch.ids.repeat_interleave(width, 0), batch.mask.repeat_interleave(width, 0), layout, labels,
            batch.prompts, batch.truncated,
        )  # fmt: skip
        real = labels != IGNORED
        picked = self.target_scores(states, rows).gather(2, labels.masked_fill(~real, 0).unsqueeze(2)).squeeze(2)
        return picked.masked_fill(~real, 0).sum(1).reshape(len(examples), width)


def run_tokens(device: torch.device) -> int:
    """Return what one more run of the encoder costs, in tokens."""
    return 16 if device.type == "cpu" else 2048


register_family(
    Family(
        name="seq2seq",
        title="an encoder-decoder",
        models="T5, BART",
        backbone=Seq2Seq,
        auto_class="AutoModelForSeq2SeqLM",
        recognizes=lambda config: bool(config.is_encoder_decoder),
        sorts_rows=True,
        peft_task="SEQ_2_SEQ_LM",
    )
)
