"""What a saved adapter computes, as one of our soft prompts. HF PEFT up to 0.21.2, and the code of DePT's authors.

V rows stand in front (num_virtual_tokens). An encoder-decoder's checkpoint holds S V rows, with S = 2 unless its config
says otherwise (num_transformer_submodules); PEFT reads the first V of them, in training and in generation.

    PROMPT_TUNING             prompt_embeddings (S V, d): the rows
    P_TUNING                  the same: PEFT saves what its prompt encoder made, and drops the encoder
    MULTITASK_PROMPT_TUNING   and prefix_task_cols (T, S V, r), prefix_task_rows (T, r, d); the rows of task t are
                              prompt_embeddings * (cols[t] rows[t]), entry by entry
    PROMPT_TUNING_LORA        DePT, in the fork of PEFT of its authors (https://github.com/ZhengxiangShi/DePT): and
                              prompt_encoder.lora_embedding_A (s, r), prompt_encoder.lora_embedding_B (r, d); the
                              offset of source position i is (lora_alpha / sqrt r) A[i] B

Shi & Lipani choose an offset by the column of a text padded to s tokens. Their encoder-decoder runs pad on the right,
where that is the rank of the source token, as here. Their decoder-only runs pad on the left, so columns count from the
end, in training from that of the target: another function of the same tensors, and such a checkpoint is refused.
"""

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from softprompt.errors import BadArtefact, BadInput
from softprompt.methods.offsets.position_low_rank import PositionLowRank
from softprompt.methods.prompts.free import Free
from softprompt.methods.soft_prompt import SoftPrompt
from softprompt.runs.formats.peft_adapter import Adapter

KINDS: dict[str, Literal["causal", "seq2seq"]] = {"CAUSAL_LM": "causal", "SEQ_2_SEQ_LM": "seq2seq"}

_COMMON = {
    "task_type", "peft_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision", "inference_mode",
    "num_virtual_tokens", "token_dim", "num_transformer_submodules", "num_attention_heads", "num_layers",
    "modules_to_save",
}  # fmt: skip
_PROMPT = _COMMON | {"prompt_tuning_init", "prompt_tuning_init_text", "tokenizer_name_or_path", "tokenizer_kwargs"}
KEYS = {
    "PROMPT_TUNING": _PROMPT,
    "P_TUNING": _COMMON
    | {"encoder_reparameterization_type", "encoder_hidden_size", "encoder_num_layers", "encoder_dropout"},
    "MULTITASK_PROMPT_TUNING": _PROMPT
    | {"prompt_tuning_init_state_dict_path", "prompt_tuning_init_task", "num_ranks", "num_tasks"},
    "PROMPT_TUNING_LORA": _PROMPT
    | {
        "r", "lora_alpha", "bias", "init_lora_weights", "hidden_size", "max_length", "save_lora_embeddings",
        "load_lora_embeddings", "load_lora_embedding_B",
    },
}  # fmt: skip
"""What the config of each type may say. A newer PEFT may compute something else under a name that is not here."""

COLS, ROWS = "prefix_task_cols", "prefix_task_rows"
A, B = "prompt_encoder.lora_embedding_A", "prompt_encoder.lora_embedding_B"


@dataclass(frozen=True)
class Imported:
    """A soft prompt made of an adapter, and what is known of it."""

    prompt: SoftPrompt
    method: str
    options: dict[str, Any]
    """Of the method, as far as an adapter tells them."""
    backbone_kind: Literal["causal", "seq2seq"] | None
    """None when the adapter does not say."""
    positions: int | None = None
    """Source tokens that its offset is for; None without one."""
    notes: list[str] = field(default_factory=list)
    """What the user should know."""


def interpret(adapter: Adapter, task: int | None = None) -> Imported:
    """Make a soft prompt of an adapter; `task` picks one of a multi-task prompt's tasks.

    Raises BadArtefact when it is none that can be one, or its files do not fit each other; BadInput for a bad `task`.
    """
    peft_type = adapter.config["peft_type"]
    if peft_type not in KEYS:
        raise BadArtefact(
            f"{adapter.config_path} is of type {peft_type!r}; rows in front of the input are made of "
            f"{', '.join(KEYS)} alone. What works inside the model's layers (LoRA, prefix tuning) is no soft prompt."
        )
    _check_keys(adapter)
    if task is not None and peft_type != "MULTITASK_PROMPT_TUNING":
        raise BadInput(
            f"--peft-task {task}: {adapter.folder} is of type {peft_type}, which has no tasks. Leave it out."
        )
    backbone_kind = _backbone_kind(adapter)
    rows = _own_rows(adapter, backbone_kind)
    if peft_type == "PROMPT_TUNING_LORA":
        return _dept(adapter, rows, backbone_kind)
    multitask = peft_type == "MULTITASK_PROMPT_TUNING"
    _expect(adapter, {"prompt_embeddings", *((COLS, ROWS) if multitask else ())})
    if multitask:
        rows = rows * _of_task(adapter, task, len(rows))
    return _free(rows, backbone_kind, [_OTHER_HALF[multitask]] if _copies(adapter) == 2 else [])


_OTHER_HALF = {
    False: "PEFT saves twice the rows that it uses for an encoder-decoder; the second half, neither trained nor read, "
    "is left out.",
    True: "PEFT trains a multi-task prompt of an encoder-decoder with rows in the decoder too, and generates without "
    "them. What is imported is what it generates with.",
}


def _free(rows: Tensor, backbone_kind: Literal["causal", "seq2seq"] | None, notes: list[str]) -> Imported:
    return Imported(SoftPrompt(Free(rows)), "prompt_tuning", {"length": len(rows)}, backbone_kind, notes=notes)


def _dept(adapter: Adapter, rows: Tensor, backbone_kind: Literal["causal", "seq2seq"] | None) -> Imported:
    """A checkpoint of DePT's authors; rows (m,d)."""
    rank, alpha, positions = (_count(adapter, name) for name in ("r", "lora_alpha", "max_length"))
    notes = [_OTHER_HALF[False]] if _copies(adapter) == 2 else []
    if backbone_kind == "causal":
        raise BadArtefact(
            f"{adapter.config_path} is a DePT of a decoder-only model. Its authors' code pads those on the left and "
            "counts offsets from the end of the text, not from its start. Tune it anew: softprompt train --method dept"
        )
    missing = [name for name in (A, B) if name not in adapter.tensors]
    if missing and rank:
        raise BadArtefact(
            f"{adapter.folder} holds {', '.join(adapter.tensors)} but not {' and '.join(missing)}: the offset was not "
            "saved, and the rows without it are another prompt. (Of the authors' 17 checkpoints, cola and sst2 are "
            "whole.)"
        )
    if not rank:  # the authors' scale is then 0
        return _free(rows, backbone_kind, notes)
    _expect(adapter, {"prompt_embeddings", A, B})
    d = rows.shape[1]
    offset = PositionLowRank(positions, rank, d, alpha=float(alpha))
    with torch.no_grad():
        offset.a.copy_(_tensor(adapter, A, (positions, rank)))
        offset.b.copy_(_tensor(adapter, B, (rank, d)))
    offset.reached[:] = True  # the authors' code adds every row, trained or not
    untouched = _untouched(offset.a, 1 / math.sqrt(rank))
    if 0 < untouched < positions:
        notes.append(
            f"The last {untouched} of {positions} rows of A lie where the authors' code draws them at random, so no "
            "training text was that long: longer ones get a random offset there, as in the authors' code. "
            f"--max-source {positions - untouched} avoids it."
        )
    options = {"length": len(rows), "rank": rank, "positions": positions, "alpha": float(alpha)}
    return Imported(SoftPrompt(Free(rows), offset), "dept", options, backbone_kind, positions, notes)


def _untouched(a: Tensor, bound: float) -> int:
    """Rows at the end of A (s,r) whose entries all lie within +-`bound`, where the start is drawn from."""
    inside = (a.detach().abs() <= bound).all(1).tolist()
    return next((i for i, ok in enumerate(reversed(inside)) if not ok), len(inside))


def _of_task(adapter: Adapter, task: int | None, length: int) -> Tensor:
    """What multiplies the rows (l,d) of a multi-task prompt for one task."""
    tasks = _count(adapter, "num_tasks", 1)
    ranks = _count(adapter, "num_ranks", 1)
    if task is None and tasks > 1:
        raise BadInput(
            f"{adapter.folder} holds a prompt for each of {tasks} tasks; say which: --peft-task 0 to {tasks - 1}."
        )
    if not 0 <= (task or 0) < tasks:
        raise BadInput(f"--peft-task {task}: {adapter.folder} has tasks 0 to {tasks - 1}.")
    whole = length * _copies(adapter)
    d = adapter.tensors["prompt_embeddings"].shape[1]
    cols = _tensor(adapter, COLS, (tasks, whole, ranks))[task or 0]
    return (cols @ _tensor(adapter, ROWS, (tasks, ranks, d))[task or 0])[:length]


def _own_rows(adapter: Adapter, backbone_kind: Literal["causal", "seq2seq"] | None) -> Tensor:
    """The rows (l,d) that PEFT reads."""
    length, copies = _count(adapter, "num_virtual_tokens"), _copies(adapter)
    if backbone_kind != "seq2seq" and copies != 1:
        raise BadArtefact(
            f"{adapter.config_path}: num_transformer_submodules={copies} without an encoder-decoder, which PEFT itself "
            "cannot run (it prepends all rows, and masks a part of them). Expected 1."
        )
    return _tensor(adapter, "prompt_embeddings", (length * copies, adapter.config.get("token_dim")))[:length].clone()


def _backbone_kind(adapter: Adapter) -> Literal["causal", "seq2seq"] | None:
    task_type = adapter.config.get("task_type")
    if task_type is not None and task_type not in KINDS:
        raise BadArtefact(
            f"{adapter.config_path} is for the task type {task_type!r}; expected {' or '.join(KINDS)}, the models that "
            "answer in words."
        )
    return None if task_type is None else KINDS[task_type]


def _copies(adapter: Adapter) -> int:
    return _count(adapter, "num_transformer_submodules", 2 if adapter.config.get("task_type") == "SEQ_2_SEQ_LM" else 1)


def _count(adapter: Adapter, name: str, default: int | None = None) -> int:
    value = adapter.config.get(name)
    value = default if value is None else value
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise BadArtefact(f"{adapter.config_path}: {name}={value!r}; expected a count.")
    return value


def _check_keys(adapter: Adapter) -> None:
    known = KEYS[adapter.config["peft_type"]]
    unknown = {name: value for name, value in adapter.config.items() if name not in known and value}
    if unknown:
        by = adapter.config.get("peft_version") or "another version"
        said = ", ".join(f"{name}={value!r}" for name, value in unknown.items())
        raise BadArtefact(
            f"{adapter.config_path}, written by PEFT {by}, says {said}; softprompt knows what PEFT up to 0.21.2 "
            "writes, and cannot tell what that changes. If it changes nothing, take it out of the file."
        )
    if others := adapter.config.get("modules_to_save"):
        raise BadArtefact(
            f"{adapter.config_path}: modules_to_save={others!r}. Parts of the model itself were trained with the "
            "prompt, and it works with them alone."
        )


def _expect(adapter: Adapter, names: set[str]) -> None:
    others = sorted(set(adapter.tensors) - names)
    if others:
        raise BadArtefact(
            f"{adapter.folder} holds the tensors {', '.join(others)} beside {', '.join(sorted(names))}; expected those "
            "alone."
        )


def _tensor(adapter: Adapter, name: str, shape: tuple[int | None, ...]) -> Tensor:
    """A tensor in float32; None in `shape` is any size. Raises BadArtefact."""
    found = adapter.tensors.get(name)
    if found is None:
        raise BadArtefact(f"{adapter.folder} holds {', '.join(adapter.tensors) or 'no tensor'}; {name} is missing.")
    fits = found.ndim == len(shape) and all(n in (None, m) for n, m in zip(shape, found.shape, strict=True))
    if not fits:
        asked = tuple("any" if n is None else n for n in shape)
        raise BadArtefact(f"{adapter.folder}: {name} is {tuple(found.shape)}; {adapter.config_path.name} says {asked}.")
    if not found.is_floating_point() or not bool(found.isfinite().all()):
        raise BadArtefact(f"{adapter.folder}: {name} is {found.dtype} or not finite; expected finite numbers.")
    return found.detach().float().clone()
