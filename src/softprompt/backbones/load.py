"""load(): a name becomes a backbone, of the class that its config asks for."""

import difflib
from collections.abc import Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn

from softprompt.backbones.backbone import Backbone
from softprompt.backbones.bundled import EMBEDDED, find_gguf, is_prepared, prepare
from softprompt.backbones.families import families, find_family, get_family
from softprompt.backbones.ops.fused import fuse
from softprompt.backbones.ops.layers import checkpoint_layers, compile_layers, shard_layers
from softprompt.backbones.ops.linear import quicken
from softprompt.backbones.placement import check_placement
from softprompt.errors import BadInput, UnknownName
from softprompt.runtime import distributed
from softprompt.runtime.logging import quiet_loading

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def find_device(name: str | None = None) -> torch.device:
    """The device named, or the best there is: cuda, then mps, then cpu."""
    if name is None:
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise BadInput(f"The device {name!r} cannot be used here: {str(error).splitlines()[0]}") from None
    return device


def find_dtype(name: str, device: torch.device) -> torch.dtype:
    """The dtype named; "auto" is bfloat16 where `device` computes in it natively, else float32."""
    if name == "auto":
        fast = (
            torch.cuda.is_bf16_supported(including_emulation=False)
            if device.type == "cuda"
            else device.type == "cpu" and torch.cpu._is_avx512_bf16_supported()
        )
        return torch.bfloat16 if fast else torch.float32
    if name not in DTYPES:
        raise UnknownName("dtype", name, [*DTYPES, "auto"])
    return DTYPES[name]


def load_backbone(
    name: str,
    *,
    dtype: str = "float32",
    device: str | None = None,
    max_source: int = 256,
    dropout: bool = False,
    gradient_checkpointing: bool = False,
    compile: bool = False,
    placement: str = "front",
    fsdp: bool = False,
) -> Backbone:
    """Load a frozen backbone.

    `name` is an embedded name (see EMBEDDED), a folder, or a hub id ("google-t5/t5-base"). `max_source` is
    the most source tokens read of an example; `dropout` leaves the backbone's own dropout on.
    `gradient_checkpointing` trades time for memory, `compile` a slow start for faster steps. `placement` says where
    prompts stand (softprompt.backbones.placement). `fsdp` spreads the layers over the processes of this run.
    """
    from transformers import AutoTokenizer

    check_placement(placement)
    where = find_device(device)
    precision = find_dtype(dtype, where)
    with distributed.in_turn(alone=False):
        kind, place = resolve(name)
    sharded = fsdp and distributed.process_count() > 1
    family = get_family(kind)
    if sharded and (compile or not family.shards):
        what = "--compile" if compile else f"{name}, {family.title},"
        raise BadInput(f"{what} does not go with --fsdp; leave --fsdp out.")
    with distributed.in_turn(alone=True) if sharded else nullcontext():  # a machine holds one whole model at a time
        with quiet_loading():
            try:
                tokenizer = AutoTokenizer.from_pretrained(place)
                model, found = family.model_class.from_pretrained(place, dtype=precision, output_loading_info=True)
            except (OSError, ValueError) as error:
                raise BadInput(f"The backbone {name!r} cannot be loaded: {_first_line(error)}") from None
        if family.needs_whole_checkpoint:
            _check_head(name, found["missing_keys"])
        model = _prepared(model.requires_grad_(False), where, sharded, gradient_checkpointing, compile)
    backbone = family.backbone(model, tokenizer, name, max_source=max_source, dropout=dropout, placement=placement)
    backbone.sharded = sharded
    if sharded:
        backbone.can_pack(())  # tried now, while all processes are at the same place
    return backbone


def _prepared(model: Any, where: torch.device, sharded: bool, checkpointing: bool, compile: bool) -> Any:
    """A model as it is trained through, on its device."""
    if not sharded:  # else it may not fit there
        model = model.to(where)
    if compile:
        compile_layers(model)  # it fuses by itself
    else:
        fuse(model)
    if checkpointing:
        checkpoint_layers(model)
    if not compile and not sharded:
        quicken(model)
    if sharded:
        shard_layers(model, where, distributed.process_count())
    return model.to(where)


def describe(name: str) -> dict[str, Any]:
    """What `name` is, without reading any weights: kind, d, v, context. Raises as `load_backbone` does."""
    if name in EMBEDDED:
        model = EMBEDDED[name]
        if not is_prepared(model):
            find_gguf(model)
        return {"name": name, "kind": model.kind, "d": model.d, "v": model.v, "context": model.context}
    kind, place = resolve(name)
    config = _config(name, place).get_text_config()
    context = getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None)
    limit = None if config.model_type in ("t5", "mt5", "umt5") else context
    d = getattr(config, "embedding_size", None) or config.hidden_size  # ALBERT, ELECTRA: narrower embeddings
    return {"name": name, "kind": kind, "d": d, "v": config.vocab_size, "context": limit}


def skeleton(name: str) -> nn.Module:
    """The network of `name` without its weights: shapes and names alone. Raises as `load_backbone` does."""
    kind, place = resolve(name)
    with torch.device("meta"), quiet_loading():
        made: nn.Module = get_family(kind).model_class.from_config(_config(name, place), dtype=torch.float32)
    return made


def resolve(name: str) -> tuple[str, str]:
    """Return the kind of backbone that `name` is and where transformers finds it; reads no weights."""
    place = str(prepare(EMBEDDED[name])) if name in EMBEDDED else name
    config = _config(name, place)
    if family := find_family(config):
        return family.name, place
    *most, last = (f"{family.title} ({family.models})" for family in families())
    raise BadInput(f"The backbone {name!r} is of type {config.model_type!r}; expected {', '.join(most)} or {last}.")


def _check_head(name: str, missing: Iterable[str]) -> None:
    if absent := sorted(missing):
        raise BadInput(
            f"The backbone {name!r} lacks {len(absent)} of a masked language model's tensors ({absent[0]}, ...): it "
            "was saved without the head that fills masks, which would be noise. Give a checkpoint with it "
            "(a ...ForMaskedLM)."
        )


def _config(name: str, place: str) -> Any:
    from transformers import AutoConfig

    if not Path(place).exists() and name.startswith(("/", "./", "../", "~")):
        raise BadInput(f"The backbone {name!r}: there is no such folder. Give one that transformers saved a model in.")
    if not Path(place).is_dir() and difflib.get_close_matches(name.lower(), EMBEDDED, n=1, cutoff=0.8):
        raise UnknownName("backbone", name, EMBEDDED, "Or give a folder, or a hub id (owner/name).")
    if Path(place).is_dir() and not (Path(place) / "config.json").is_file():
        raise BadInput(f"The folder {name!r} holds no config.json; expected a model saved by transformers.")
    try:
        with quiet_loading():
            return AutoConfig.from_pretrained(place)
    except (OSError, ValueError) as error:
        hint = f"It is no embedded backbone, no folder, and the hub says: {_first_line(error)}"
        raise UnknownName("backbone", name, EMBEDDED, hint) from None


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
