"""The one injection: soft tokens are ids past the vocabulary.

`SoftEmbedding` stands in for a frozen model's input embedding. Id v + i reads row i of the bank instead
of the table, and real source tokens get their prompt's offset. Placement is then where the ids stand, a
batch of mixed prompts is ordinary ids, and forward, generate, caches, positions and padding need no code.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from softprompt.recompute import switchable
from softprompt.soft import Bank, SoftPrompt, Text

IGNORED = -100
"""The label of positions that are not learned (PyTorch's own default)."""


class Layout(NamedTuple):
    """What the ids alone cannot say: whose row it is, and which tokens are source."""

    prompt: Int[Tensor, " b"]
    """Index of each row's prompt in the bank, -1 for none."""
    position: Int[Tensor, "b s"]
    """Rank of each real source token in its row, -1 at soft tokens, padding and targets."""


class SoftEmbedding(nn.Module):
    """Embed ids (b, n) to (b, n, d): the frozen table below v, the bank's rows from v on.

    Without a layout (see `laid_out`) one is read off the ids: the first soft token of a row names its
    prompt, and every id that is neither soft nor `pad` is source. A backbone that trains on targets, or
    whose padding id also occurs in text, gives the layout itself.
    """

    def __init__(self, table: nn.Module, bank: Bank, pad: int) -> None:
        super().__init__()
        self.table, self.bank, self.pad = table, bank, pad
        self.penalties: dict[int, Tensor] = {}  # of the last forward, by the index of their prompt
        self._layout: Layout | None = None
        self._fresh = False

    @property
    def weight(self) -> Tensor:
        weight = self.table.weight
        assert isinstance(weight, Tensor)
        return weight

    @property
    def num_embeddings(self) -> int:
        return int(self.weight.shape[0])

    @property
    def embedding_dim(self) -> int:
        return int(self.weight.shape[1])

    @property
    def is_laid_out(self) -> bool:
        return self._layout is not None

    @contextmanager
    def laid_out(self, layout: Layout | None) -> Iterator[None]:
        """Use `layout` for the model calls inside, `generate` and its later steps included. None: it is read off."""
        self._layout, self._fresh = layout, True
        try:
            yield
        finally:
            self._layout = None

    def forward(self, ids: Int[Tensor, "b n"]) -> Float[Tensor, "b n d"]:
        v = self.num_embeddings
        soft = ids >= v
        embeds: Tensor = self.table(ids.masked_fill(soft, self.pad))
        layout = self._layout_of(ids)
        self.penalties = {}
        if layout is None or not bool((layout.prompt >= 0).any()):
            return embeds
        parts: list[tuple[Tensor, Tensor]] = []
        for index in torch.unique(layout.prompt).tolist():
            if index >= 0:
                rows = (layout.prompt == index).nonzero().squeeze(1)
                parts.append((rows, self._embed(index, ids[rows], embeds[rows], layout.position[rows])))
        for rows, made in parts:
            embeds = embeds.index_copy(0, rows, made)
        return embeds

    def _embed(self, index: int, ids: Tensor, embeds: Tensor, position: Tensor) -> Tensor:
        """Embed rows that share prompt `index`: ids (b, n), embeds (b, n, d) -> (b, n, d)."""
        mask = position >= 0
        prompt, offset, penalty = self.bank[index](Text(ids, embeds, mask, position))
        if penalty is not None:
            self.penalties[index] = penalty
        if offset is not None:
            embeds = torch.where(mask.unsqueeze(-1), embeds + offset.to(embeds.dtype), embeds)
        soft = ids >= self.num_embeddings
        if not bool(soft.any()):
            return embeds
        rank = (ids - self.num_embeddings - self.bank.starts[index]).clamp(0, max(prompt.shape[-2] - 1, 0))
        if prompt.ndim == 2:
            rows = prompt[rank]  # (b, n, d)
        else:
            rows = prompt.gather(1, rank.unsqueeze(-1).expand(-1, -1, prompt.shape[-1]))  # (b, n, d)
        return torch.where(soft.unsqueeze(-1), rows.to(embeds.dtype), embeds)

    def _layout_of(self, ids: Tensor) -> Layout | None:
        if self._layout is None:
            return self.read_off(ids, ids != self.pad)
        prompt, position = self._layout
        (b, n), columns = position.shape, ids.shape[1]
        fresh, self._fresh = self._fresh, False
        # A cached generation step brings one new column. Where the text itself is one column wide, only
        # the first call of that width is the text.
        if not fresh and columns < n + (n == 1):
            return None
        if columns < n or ids.shape[0] % b:
            raise ValueError(f"ids of shape {tuple(ids.shape)} do not fit a layout of shape {(b, n)}.")
        beams = ids.shape[0] // b  # generate repeats each row for its beams
        position = torch.cat([position, position.new_full((b, columns - n), -1)], dim=1)
        return Layout(prompt.repeat_interleave(beams, 0), position.repeat_interleave(beams, 0))

    def read_off(self, ids: Int[Tensor, "b n"], text: Bool[Tensor, "b n"]) -> Layout | None:
        """The layout of ids of which those in `text` that are not soft are source; None without soft tokens."""
        soft = ids >= self.num_embeddings
        if not bool(soft.any()):
            return None
        ends = torch.tensor([*self.bank.starts[1:], self.bank.size], device=ids.device)
        first = ids.gather(1, soft.int().argmax(1, keepdim=True)).squeeze(1) - self.num_embeddings  # (b,)
        prompt = torch.bucketize(first, ends, right=True).masked_fill(~soft.any(1), -1)
        mask = ~soft & text
        return Layout(prompt, (mask.cumsum(1) - 1).masked_fill(~mask, -1))


def install(model: nn.Module, bank: Bank, pad: int) -> SoftEmbedding:
    """Let the transformers model `model` read `bank`'s soft tokens from now on.

    Of an encoder-decoder only the encoder's embedding is replaced. `pad` is an id of the vocabulary that
    stands in for soft tokens where the table is asked for them.
    """
    owner = _owner(model)
    embedding = SoftEmbedding(owner.get_input_embeddings(), bank, pad)  # type: ignore[operator]
    owner.set_input_embeddings(embedding)  # type: ignore[operator]
    return embedding


@contextmanager
def attach(model: nn.Module, bank: Bank | SoftPrompt, pad: int, *, dropout: bool = False) -> Iterator[SoftEmbedding]:
    """As `install`, inside the block only, and ready to be trained there: afterwards the model is as it was.

    Inside, `model` is an ordinary transformers model whose only trainable tensors, and only entries of its state dict,
    are the bank's: `transformers.Trainer` trains and saves those (docs/trainer.md). Source is what `attention_mask`
    shows and, in a decoder-only model with `labels`, what is no target (-100 there). The model stays in eval mode
    whatever `train()` says, unless `dropout`; gradient checkpointing, once switched on, works in both.
    """
    bank = bank if isinstance(bank, Bank) else Bank({"prompt": bank})
    trained = [tensor for tensor in model.parameters() if tensor.requires_grad]
    modes = [(module, module.training) for module in model.modules()]
    model.requires_grad_(False)
    if not dropout:
        model.eval()
    embedding = install(model, bank, pad)
    handles = [*_reading_calls(_owner(model), embedding), _keeping_the_bank(model, embedding)]
    if not dropout:
        model.train = lambda mode=True: (bank.train(mode), model)[1]  # type: ignore[method-assign]
    try:
        with switchable(model):
            yield embedding
    finally:
        for handle in handles:
            handle.remove()
        model.__dict__.pop("train", None)
        _owner(model).set_input_embeddings(embedding.table)  # type: ignore[operator]
        for tensor in trained:
            tensor.requires_grad_(True)
        for module, mode in modes:
            module.training = mode


def _reading_calls(owner: nn.Module, embedding: SoftEmbedding) -> list[RemovableHandle]:
    """Let calls of `owner`, the model or its encoder, say which tokens are source: their masks and labels do."""

    def before(_: nn.Module, args: tuple[Any, ...], given: dict[str, Any]) -> None:
        ids = args[0] if args else given.get("input_ids")
        if ids is None or embedding.is_laid_out:
            return
        mask, labels = given.get("attention_mask"), given.get("labels")
        text = ids != embedding.pad
        if isinstance(mask, Tensor) and mask.shape == ids.shape:
            text = mask.bool()  # where the padding id also occurs in text, only the mask can tell
        if isinstance(labels, Tensor) and labels.shape == ids.shape:
            text = text & (labels == IGNORED)
        calls.enter_context(embedding.laid_out(embedding.read_off(ids, text)))

    def after(*_: Any) -> None:
        calls.close()

    calls = ExitStack()
    return [
        owner.register_forward_pre_hook(before, with_kwargs=True),
        owner.register_forward_hook(after, always_call=True),
    ]


def _keeping_the_bank(model: nn.Module, embedding: SoftEmbedding) -> RemovableHandle:
    """Leave the frozen tensors out of `model`'s state dict."""
    own = next(name for name, module in model.named_modules() if module is embedding.bank)

    def after(_: nn.Module, state: dict[str, Any], prefix: str, __: object) -> None:
        for name in [name for name in state if not name.startswith(f"{prefix}{own}.")]:
            del state[name]

    handle: RemovableHandle = model.register_state_dict_post_hook(after)  # type: ignore[no-untyped-call]
    return handle


def _owner(model: nn.Module) -> nn.Module:
    """The module whose input embedding reads the source."""
    encoder: nn.Module = model.get_encoder() if model.config.is_encoder_decoder else model  # type: ignore
    return encoder
