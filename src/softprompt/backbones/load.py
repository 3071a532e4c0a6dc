"""Load a backbone by its name; its config says of which family it is."""

import difflib
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from softprompt.backbones.backbone import Backbone
from softprompt.backbones.bundled import EMBEDDED, find_gguf, is_prepared, prepare
from softprompt.backbones.families import BACKBONE_FAMILIES, find_family, get_family
from softprompt.backbones.loading_errors import (
    check_quantizer,
    check_weights,
    explain,
    explain_tokenizer,
    own_code,
)
from softprompt.backbones.ops.fused import fuse
from softprompt.backbones.ops.layers import checkpoint_layers, compile_layers, shard_layers
from softprompt.backbones.ops.linear import quicken
from softprompt.backbones.placement import check_placement
from softprompt.backbones.positions import position_limit
from softprompt.errors import BadInput, UnknownName, first_line
from softprompt.runtime import distributed
from softprompt.runtime.logging import quiet_loading
from softprompt.runtime.threads import settle_threads
from softprompt.runtime.versions import warn_of_newer

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def find_device(name: str | None = None) -> torch.device:
    """Return the device named, or the best there is: cuda, then mps, then cpu. Raises BadInput."""
    if name is None:
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise BadInput(f"The device {name!r} cannot be used here: {first_line(error)}") from None
    return device


WIDE = 256
"""Hidden size from which on bfloat16 is faster than float32 where it is native; below, its conversions cost more."""


def find_dtype(name: str, device: torch.device, d: int | None = None) -> torch.dtype:
    """Return the dtype named; "auto" is bfloat16 where it is fast, else float32.

    Args:
        name: "float32", "bfloat16", "float16" or "auto".
        device: Where it is computed: "auto" asks whether `device` computes in bfloat16 natively.
        d: Hidden size of the backbone, if it is known; "auto" is float32 for one below `WIDE`.

    Raises:
        UnknownName: It is none of these.
    """
    if name == "auto":
        fast = (d is None or d >= WIDE) and (
            torch.cuda.is_bf16_supported(including_emulation=False)
            if device.type == "cuda"
            # A private name in torch 2.13.0, which has no public one: without it "auto" is float32 on every CPU.
            else device.type == "cpu" and torch.cpu._is_avx512_bf16_supported()
        )
        return torch.bfloat16 if fast else torch.float32
    if name not in DTYPES:
        raise UnknownName("dtype", name, [*DTYPES, "auto"])
    return DTYPES[name]


def load_backbone(
    name: str,
    *,
    dtype: str = "auto",
    device: str | None = None,
    max_source: int = 256,
    dropout: bool = False,
    gradient_checkpointing: bool = False,
    compile: bool = False,
    placement: str = "front",
    fsdp: bool = False,
) -> Backbone:
    """Load a frozen backbone.

    Args:
        name: A bundled name (see EMBEDDED), a folder, or a hub id ("google-t5/t5-base").
        dtype: "float32", "bfloat16", "float16" or "auto" (see `find_dtype`).
        device: As torch writes it; None: the best there is.
        max_source: Most source tokens that are read of an example.
        dropout: Leave the backbone's own dropout on in training steps.
        gradient_checkpointing: Compute layers twice to save memory.
        compile: Compile what stands between the attentions: a slow start, faster steps.
        placement: Where prompts stand (softprompt.backbones.placement).
        fsdp: Spread the layers over the processes of this run.

    Raises:
        BadInput: It cannot be loaded, or two of these do not go together.
        UnknownName: There is no such backbone, dtype or placement.
    """
    from transformers import AutoTokenizer

    for package in ("torch", "transformers"):
        warn_of_newer(package)
    check_placement(placement)
    where = find_device(device)
    find_dtype(dtype, where)
    if where.type == "cpu":
        settle_threads()
    with distributed.in_turn(alone=False):
        kind, place, config = _find(name)
        precision = find_dtype(dtype, where, _width(config))
    sharded = fsdp and distributed.process_count() > 1
    family = get_family(kind)
    if sharded and (compile or not family.shards):
        what = "--compile" if compile else f"{name}, {family.title},"
        raise BadInput(f"{what} does not go with --fsdp; leave --fsdp out.")
    with distributed.in_turn(alone=True) if sharded else nullcontext():  # a machine holds one whole model at a time
        with quiet_loading():
            try:
                tokenizer = AutoTokenizer.from_pretrained(place)
            except Exception as error:  # noqa: BLE001  # whatever a file of somebody else's raises
                raise explain_tokenizer(name, place, error) from None
            try:
                model, found = family.model_class.from_pretrained(
                    place, dtype=precision, output_loading_info=True, ignore_mismatched_sizes=True
                )
            except Exception as error:  # noqa: BLE001
                raise explain(name, place, error) from None
        check_weights(name, family, model, found["missing_keys"], found["mismatched_keys"], found["unexpected_keys"])
        model = _prepare(model.requires_grad_(False), where, sharded, gradient_checkpointing, compile)
    backbone = family.backbone(model, tokenizer, name, max_source=max_source, dropout=dropout, placement=placement)
    backbone.sharded = sharded
    backbone.check()
    if sharded:
        backbone.can_pack(())  # tried now, while all processes are at the same place
    return backbone


def _prepare(
    model: "PreTrainedModel", where: torch.device, sharded: bool, checkpointing: bool, compile: bool
) -> "PreTrainedModel":
    """Make a model fast to train through, and move it to its device."""
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
    """Look up kind, d, v and context of a backbone without reading weights. Raises what `load_backbone` raises."""
    if name in EMBEDDED:
        model = EMBEDDED[name]
        if not is_prepared(model):
            find_gguf(model)
        return {"name": name, "kind": model.kind, "d": model.d, "v": model.v, "context": model.context}
    kind, _, config = _find(name)
    v, limit = config.get_text_config().vocab_size, position_limit(config)
    return {"name": name, "kind": kind, "d": _width(config), "v": v, "context": limit}


def _width(config: "PreTrainedConfig") -> int:
    text = config.get_text_config()
    width: int = getattr(text, "embedding_size", None) or text.hidden_size  # ALBERT, ELECTRA: narrower embeddings
    return width


def skeleton(name: str) -> nn.Module:
    """Make the network of `name` without weights: shapes and names alone. Raises what `load_backbone` raises."""
    kind, _, config = _find(name)
    with torch.device("meta"), quiet_loading():
        made = get_family(kind).model_class
        model: nn.Module = (
            made.from_config(config, dtype=torch.float32) if hasattr(made, "from_config") else made(config)
        )
    return model


def resolve(name: str) -> tuple[str, str]:
    """Return the kind of backbone that `name` is and where transformers finds it; reads no weights."""
    return _find(name)[:2]


def _find(name: str) -> tuple[str, str, "PreTrainedConfig"]:
    """Return what `resolve` does, and the config."""
    place = str(prepare(EMBEDDED[name])) if name in EMBEDDED else name
    config = _config(name, place)
    check_quantizer(name, config)
    if family := find_family(config):
        return family.name, place, config
    if getattr(config, "auto_map", None):
        raise own_code(name)
    *most, last = (f"{family.title} ({family.models})" for family in BACKBONE_FAMILIES.values())
    raise BadInput(f"The backbone {name!r} is of type {config.model_type!r}; expected {', '.join(most)} or {last}.")


def _config(name: str, place: str) -> "PreTrainedConfig":
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
        if Path(place).is_dir():
            raise explain(name, place, error) from None
        hint = f"It is neither bundled nor a folder, and the hub says: {first_line(error)}"
        raise UnknownName("backbone", name, EMBEDDED, hint) from None
