"""Say why a backbone cannot be loaded, in one sentence with what to do; and refuse what would load wrongly."""

import importlib.util
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError, safe_open

from softprompt.backbones.families import Family
from softprompt.errors import BadInput, MissingPackage, first_line

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedConfig

QUANTIZERS = {
    "awq": "gptqmodel", "bitsandbytes": "bitsandbytes", "bitsandbytes_4bit": "bitsandbytes",
    "bitsandbytes_8bit": "bitsandbytes", "compressed-tensors": "compressed_tensors", "gptq": "gptqmodel",
    "hqq": "hqq", "quanto": "optimum.quanto", "torchao": "torchao",
}  # fmt: skip
"""The module that transformers (5.23.0) reads a quantised checkpoint with, by the method that its config names."""


def check_quantizer(name: str, config: "PreTrainedConfig") -> None:
    """Raise MissingPackage for a quantised checkpoint whose package is not installed."""
    said = getattr(config, "quantization_config", None) or {}
    method = said.get("quant_method") if isinstance(said, dict) else getattr(said, "quant_method", None)
    module = QUANTIZERS.get(str(getattr(method, "value", method)))
    if module and importlib.util.find_spec(module.partition(".")[0]) is None:
        package = module.replace("_", "-").replace(".", "-")
        reason = f"The backbone {name!r} is quantised ({method}), and transformers reads it with that."
        raise MissingPackage(package, reason, f"pip install {package}")


def explain(name: str, place: str, error: Exception) -> BadInput:
    """Make the error for a model or tokenizer that transformers could not load."""
    if damaged := _find_damaged(place):
        return BadInput(f"The backbone {name!r}: {damaged} is damaged or cut off. Copy or download it again.")
    if "trust_remote_code" in str(error):
        return own_code(name)
    if isinstance(error, ImportError):
        return BadInput(f"The backbone {name!r} needs a package that is not installed: {first_line(error)}")
    kind = "" if isinstance(error, OSError | ValueError | SafetensorError) else f"{type(error).__name__}: "
    return BadInput(f"The backbone {name!r} cannot be loaded: {kind}{first_line(error)}")


def own_code(name: str) -> BadInput:
    """Make the error for a model whose architecture is not in transformers."""
    return BadInput(
        f"The backbone {name!r} brings code of its own (auto_map in its config.json), which is not run here. Give "
        "a model whose architecture transformers has."
    )


def explain_tokenizer(name: str, place: str, error: Exception) -> BadInput:
    """Make the error for a tokenizer that transformers could not load."""
    files = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "tokenizer_config.json")
    if Path(place).is_dir() and not any((Path(place) / file).is_file() for file in files):
        return BadInput(
            f"The folder {name!r} holds no tokenizer (tokenizer.json or the like). Save the model's own there: "
            "tokenizer.save_pretrained(FOLDER)."
        )
    return explain(name, place, error)


def _find_damaged(place: str) -> str:
    """Name the first file of weights in a folder that cannot be opened; "" for none."""
    for path in sorted(Path(place).glob("*.safetensors")) if Path(place).is_dir() else ():
        try:
            with safe_open(path, "pt"):
                pass
        except (SafetensorError, OSError):
            return str(path)
    return ""


def check_weights(
    name: str,
    family: Family,
    model: "nn.Module",
    missing: Iterable[str],
    mismatched: Iterable[tuple[str, object, object]],
    unexpected: Iterable[str],
) -> None:
    """Refuse a checkpoint whose tensors are not those of its config.

    transformers (5.23.0) fills what is missing with random values, other ones in each load, and leaves out what its
    config does not name.

    Args:
        name: The backbone's.
        family: Its family.
        model: As it was made by its config.
        missing: Tensors of the model that the checkpoint lacks.
        mismatched: Tensors of other shapes: name, shape in the checkpoint, shape in the model.
        unexpected: Tensors of the checkpoint that the model does not have.

    Raises:
        BadInput: Tensors are missing, have other shapes, or are layers past the config's last.
    """
    for key, stored, expected in mismatched:
        raise BadInput(
            f"The backbone {name!r}: {key} has the shape {_shape(stored)} in the checkpoint, and its config.json means "
            f"{_shape(expected)}. Give the config that belongs to these weights."
        )
    if absent := sorted(missing):
        few = ", ".join(absent[:3]) + (", ..." if len(absent) > 3 else "")
        raise BadInput(
            f"The backbone {name!r} lacks {len(absent)} of its tensors ({few}): it was saved without its head or "
            "without a part, and random values would stand there, other ones in each load. Give a checkpoint that "
            f"holds them all (a ...{family.class_name.removeprefix('AutoModel')})."
        )
    own = {_unnumbered(key) for key in model.state_dict()}
    if past := sorted(key for key in unexpected if re.search(r"\.\d+\.", key) and _unnumbered(key) in own):
        raise BadInput(
            f"The backbone {name!r} holds {len(past)} tensors of layers that its config.json does not have ({past[0]}, "
            "...), and they would be left out. Give the config that belongs to these weights."
        )


def _unnumbered(key: str) -> str:
    return re.sub(r"\.\d+\.", ".*.", key)


def _shape(size: object) -> str:
    return str(tuple(size)) if isinstance(size, Iterable) else str(size)
