"""Hold a frozen model of transformers with its tokens and its prompts: what there is, before anything is computed."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from softprompt.backbones.attach import hide_soft_ids, install
from softprompt.backbones.decoding import decode_greedily
from softprompt.backbones.families import Family, get_family
from softprompt.backbones.ops.fused import unfused
from softprompt.backbones.ops.layers import are_checkpointed
from softprompt.backbones.placement import Placement, check_placement, tokens_before
from softprompt.backbones.positions import position_limit
from softprompt.backbones.row_check import Grouping
from softprompt.backbones.tokenization import Tokenization
from softprompt.errors import BadInput
from softprompt.methods.bank import Bank
from softprompt.methods.initialization import embedding_scale
from softprompt.tasks.task import Example, Scoring


class FrozenModel:
    """A frozen model whose input embedding reads soft prompts. `using(bank)` says which ones.

    Args:
        model: A model of transformers; its parameters are frozen and its input embedding is replaced.
        tokenizer: A tokenizer of transformers.
        name: Its name in messages and run folders.
        max_source: Most source tokens that are read of an example.
        dropout: Leave the model's own dropout on in training steps.
        placement: Where prompts stand (softprompt.backbones.placement).
    """

    kind: ClassVar[str]
    """The name of its family (softprompt.backbones.families)."""
    tokenization: ClassVar[type[Tokenization]] = Tokenization

    def __init__(
        self,
        model: nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        name: str,
        *,
        max_source: int = 256,
        dropout: bool = False,
        placement: str = "front",
    ) -> None:
        self.model, self.tokenizer, self.name = model, tokenizer, name
        self.tokens = self.tokenization(tokenizer, self.family, name, max_source)
        """Ids of texts and examples; called with a text, its ids without special tokens."""
        self.placement: Placement = check_placement(placement)
        model.requires_grad_(False)
        model.eval()
        decode_greedily(model)
        self.dropout = dropout
        """Whether the model's own dropout is on in training steps (`with_dropout`). It never is elsewhere."""
        table: nn.Module = model.get_input_embeddings()  # type: ignore
        assert isinstance(table.weight, Tensor)
        self.v, self._width = table.weight.shape
        self.tokens.check_against(self.v)
        # A padding token that was added to the tokenizer alone has an id past the table, which is a soft token's here.
        # Padding is masked, so any other id serves.
        known = [i for i in (tokenizer.pad_token_id, tokenizer.eos_token_id) if i is not None and i < self.v]
        self.pad: int = known[0] if known else 0
        self.embedding = install(model, Bank(), self.pad)
        hide_soft_ids(model, self.embedding)
        self._grouping: Grouping | None = None  # not tried yet
        self._no_text = ""
        self.sharded = False
        """Its layers are spread over the processes of this run, which must therefore all call it equally often."""
        self.set_up()

    @contextmanager
    def with_dropout(self, on: bool = True) -> Iterator[None]:
        """Switch the model's own dropout inside the block: on where it was asked for, or off.

        Training steps alone switch it on: whatever answers or scores gives the same numbers each time.
        """
        before, wanted = self.model.training, on and self.dropout
        try:
            if wanted != before:
                self.model.train(wanted)
            yield
        finally:
            if wanted != before:
                self.model.train(before)

    def set_up(self) -> None:
        """Prepare what a family needs besides; called once, at the end of `__init__`."""

    @property
    def family(self) -> Family:
        """What is known of all backbones of its kind."""
        return get_family(self.kind)

    @property
    def max_source(self) -> int:
        """Most source tokens that are read of an example."""
        return self.tokens.max_source

    @property
    def d(self) -> int:
        """Width of the embeddings."""
        return int(self._width)

    @property
    def device(self) -> torch.device:
        return self.embedding.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.embedding.weight.dtype

    @property
    def context(self) -> int | None:
        """Positions for soft tokens, source and (decoder-only) target together; None when unlimited."""
        return position_limit(self.model.config)

    @contextmanager
    def using(self, bank: Bank) -> Iterator[None]:
        """Let rows name the prompts of `bank` inside the block. At its end new token ids are written to disk."""
        before, self.embedding.bank = self.embedding.bank, Bank()  # a baseline finds nothing but the network
        try:
            with bank.inside(self):
                self.embedding.bank = bank
                yield
        finally:
            self.embedding.bank = before
            self.tokens.keep()

    @property
    def recomputes_layers(self) -> bool:
        """Whether the backward pass runs layers a second time (gradient checkpointing)."""
        return are_checkpointed(self.model)

    def unfused(self) -> AbstractContextManager[None]:
        """Run norms as transformers writes them inside the block, so that their weights get gradients."""
        return unfused(self.model)

    def can_pack(self, prompts: Sequence[int]) -> bool:
        """Tell whether examples with these prompts are computed without padding, each prompt once for all of them."""
        return False

    @contextmanager
    def frozen_prompts(self) -> Iterator[None]:
        """Promise that the bank does not change inside the block: what depends on a prompt alone is computed once."""
        yield

    # What initialization needs to know of the tokens (softprompt.methods.initialization.Vocabulary)

    def ordinary_ids(self) -> list[int]:
        """Return the ids of the vocabulary in the tokenizer's order, without special tokens and unused rows."""
        special = set(self.tokenizer.all_special_ids)
        return [i for i in range(min(len(self.tokenizer), self.v)) if i not in special]

    def embed(self, ids: Sequence[int]) -> Float[Tensor, "n d"]:
        """Return the float32 rows of the frozen table for `ids`, as the network receives them, on the CPU."""
        with torch.no_grad():
            made: Tensor = self.embedding.table(torch.tensor(list(ids), dtype=torch.long, device=self.device))
            return made.float().cpu().reshape(-1, self.d)

    def scale(self) -> float:
        """Return the root mean square of the embedding entries: the unit of learning rates."""
        return embedding_scale(self)

    # Limits and places

    def check_example(self, example: Example, scoring: Scoring = "ranked") -> None:
        """Raise BadInput when this kind of backbone cannot answer such an example, or its answers not be scored so."""
        self.tokens.check_example(example, scoring)

    def room(self, length: int, target: int) -> int:
        """Count the source tokens that fit beside `length` soft tokens and `target` target tokens.

        Raises BadInput when there are none, saying what to shorten.
        """
        if self.context is None:
            return self.max_source
        left = self.context - length - target
        if left < 1:
            raise BadInput(
                f"{self.name} has {self.context} positions; a prompt of {length} rows and an answer of {target} tokens "
                "leave none for the source. Shorten the prompt."
            )
        return left

    def tokens_before(self, source: Sequence[int]) -> int:
        """Count the tokens of a source that stand before its prompt."""
        opening = self.tokens.opening if self.placement == "after_bos" else []
        return tokens_before(source, opening, self.placement)
