"""Remember what was found out about a backbone: in this process and, where finding out took long, on disk.

    CACHE/checks/DIGEST.json      {"grouping": "padded", "no_text": ""}
    CACHE/packing/DIGEST.json     {"difference": ""}

DIGEST hashes all that decides an outcome: the config, a sample of the weights, their type, the device, the special
tokens and the versions of transformers and torch; for packed rows, which our own code computes, that code and the
processor as well.
"""

import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import transformers

from softprompt.backbones import ops
from softprompt.backbones.found_out import recall, remember
from softprompt.backbones.network_sample import sample_network
from softprompt.backbones.row_check import GROUPINGS, RowCheck, check_rows
from softprompt.runtime.machine import processor_name

if TYPE_CHECKING:
    from softprompt.backbones.backbone import Backbone

SLOW = 0.2
"""Seconds from which on an outcome is written to disk."""
VERSION = 1
"""Version of the check: a new one forgets what older ones found."""

_known: dict[str, RowCheck] = {}


def recall_rows(backbone: "Backbone") -> RowCheck:
    """Return how rows go through `backbone` together, tried now if that is not known. Raises what `check_rows` does."""
    if backbone.sharded:
        return check_rows(backbone)  # each process holds a part of the weights
    key = digest(backbone)
    if key not in _known:
        begin = time.perf_counter()
        found = _known_on_disk(key) or check_rows(backbone)
        if time.perf_counter() - begin > SLOW:
            remember("checks", key, found._asdict())
        _known[key] = found
    return _known[key]


def recall_packing(backbone: "Backbone", compare: Callable[[], str]) -> str:
    """Return how packed rows of `backbone` differ from plain ones ("": they agree), compared now if not known."""
    if backbone.sharded:
        return compare()
    said = [digest(backbone), _own_code(), processor_name(), torch.get_num_threads()]
    key = hashlib.sha256(json.dumps(said).encode()).hexdigest()[:24]
    known = recall("packing", key).get("difference")
    if isinstance(known, str):
        return known
    begin = time.perf_counter()
    difference = compare()
    if time.perf_counter() - begin > SLOW:
        remember("packing", key, {"difference": difference})
    return difference


def digest(backbone: "Backbone") -> str:
    """Hash all that decides what the check finds."""
    model, tokens = backbone.model, backbone.tokens
    said = [
        VERSION, transformers.__version__, torch.__version__, type(model).__name__, backbone.kind, backbone.placement,
        model.config.to_json_string(use_diff=False), str(backbone.dtype), backbone.device.type, backbone.pad,  # type: ignore
        tokens.opening, tokens.closing(), len(backbone.tokenizer), backbone.recomputes_layers,
        sample_network(model, backbone.embedding.weight), backbone.embedding.weight[:2, :8].float().tolist(),
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:24]


def _own_code() -> str:
    """Hash the files of softprompt.backbones.ops."""
    hashed = hashlib.sha256()
    for path in sorted(Path(ops.__file__).parent.glob("*.py")):
        hashed.update(path.read_bytes())
    return hashed.hexdigest()


def _known_on_disk(key: str) -> RowCheck | None:
    try:
        made = RowCheck(**recall("checks", key))  # type: ignore[arg-type]  # looked at below
    except TypeError:
        return None
    return made if made.grouping in GROUPINGS and isinstance(made.no_text, str) else None
