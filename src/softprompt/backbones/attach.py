"""Let a transformers model read soft prompts: its input embedding is replaced, for good or inside a block."""

from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import ExitStack, contextmanager

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from softprompt.backbones.ops.checkpointing import switchable
from softprompt.errors import BadInput
from softprompt.methods.bank import Bank
from softprompt.methods.embedding import IGNORED, SoftEmbedding
from softprompt.methods.soft_prompt import SoftPrompt


def install(model: nn.Module, bank: Bank, pad: int) -> SoftEmbedding:
    """Replace the input embedding of a transformers model by one that reads `bank`'s soft tokens, and return it.

    In an encoder-decoder that is the encoder's only. `pad` is an id of the vocabulary that stands in for soft tokens
    where a table is indexed with them.
    """
    owner = _owner(model)
    embedding = SoftEmbedding(owner.get_input_embeddings(), bank, pad)  # type: ignore[operator]
    owner.set_input_embeddings(embedding)  # type: ignore[operator]
    return embedding


def hide_soft_ids(model: nn.Module, embedding: SoftEmbedding) -> list[RemovableHandle]:
    """Let the other tables of `model` that are indexed with token ids read the padding's row for soft tokens.

    Gemma 3n and 4 look every token up in a second table, once for all layers.
    """

    def before(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        ids = args[0]
        return (ids.masked_fill(ids >= embedding.num_embeddings, embedding.pad), *args[1:])

    return [
        module.register_forward_pre_hook(before)
        for module in _owner(model).modules()
        # A longer one may be a table of positions, whose indices pass the vocabulary's end rightly.
        if isinstance(module, nn.Embedding) and module is not embedding.table
        and module.num_embeddings <= embedding.num_embeddings
    ]  # fmt: skip


@contextmanager
def attach(model: nn.Module, bank: Bank | SoftPrompt, pad: int, *, dropout: bool = False) -> Iterator[SoftEmbedding]:
    """Let `model` read and train `bank` inside the block; afterwards the model is as it was.

    Inside, `model` is an ordinary transformers model whose only trainable tensors, and only entries of its state dict,
    are the bank's: `transformers.Trainer` trains and saves those (docs/trainer.md). Source is what `attention_mask`
    shows and, in a decoder-only model with `labels`, what has the label -100. The model stays in eval mode
    whatever `train()` says, unless `dropout`; gradient checkpointing, once switched on, works in both.
    """
    bank = bank if isinstance(bank, Bank) else Bank({"prompt": bank})
    trained = [tensor for tensor in model.parameters() if tensor.requires_grad]
    modes = [(module, module.training) for module in model.modules()]
    model.requires_grad_(False)
    if not dropout:
        model.eval()
    embedding = install(model, bank, pad)
    handles = [
        *_reading_calls(_owner(model), embedding),
        *hide_soft_ids(model, embedding),
        _keeping_the_bank(model, embedding),
    ]
    if not dropout:
        # Trainer calls train() each step (transformers 5.23.0), which would switch the frozen network's dropout on.
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
    """Hook `owner`, the model or its encoder: the masks and labels of a call say which tokens are source."""

    def before(_: nn.Module, args: tuple[object, ...], given: Mapping[str, object]) -> None:
        ids = args[0] if args else given.get("input_ids")
        if not isinstance(ids, Tensor) or embedding.is_laid_out:
            return
        mask, labels = given.get("attention_mask"), given.get("labels")
        text = ids != embedding.pad
        if isinstance(mask, Tensor) and mask.shape == ids.shape:
            text = mask.bool()  # where the padding id also occurs in text, only the mask can tell
        if isinstance(labels, Tensor) and labels.shape == ids.shape:
            text = text & (labels == IGNORED)
        calls.enter_context(embedding.laid_out(embedding.read_off(ids, text)))

    def after(*_: object) -> None:
        calls.close()

    calls = ExitStack()
    return [
        owner.register_forward_pre_hook(before, with_kwargs=True),
        owner.register_forward_hook(after, always_call=True),
    ]


def _keeping_the_bank(model: nn.Module, embedding: SoftEmbedding) -> RemovableHandle:
    """Hook `model`: its state dict leaves the frozen tensors out."""
    own = next(name for name, module in model.named_modules() if module is embedding.bank)

    def after(_: nn.Module, state: MutableMapping[str, object], prefix: str, __: object) -> None:
        for name in [name for name in state if not name.startswith(f"{prefix}{own}.")]:
            del state[name]

    handle: RemovableHandle = model.register_state_dict_post_hook(after)  # type: ignore[no-untyped-call]
    return handle


def _owner(model: nn.Module) -> nn.Module:
    """Return the module whose input embedding reads the source."""
    encoder: nn.Module = model.get_encoder() if model.config.is_encoder_decoder else model  # type: ignore
    if not hasattr(encoder, "get_input_embeddings"):  # FSMT, of which transformers (5.23.0) does not say where they are
        raise BadInput(f"{type(model).__name__} has no input embedding that can be replaced; give another backbone.")
    return encoder
