"""Convert an adapter to a soft prompt. HF PEFT up to 0.21.2, and the code of DePT's authors.

V rows are put in front (num_virtual_tokens). An encoder-decoder's checkpoint holds S V rows, with S = 2 unless its
config says otherwise (num_transformer_submodules); PEFT reads the first V of them, in training and in generation.

    PROMPT_TUNING             prompt_embeddings (S V, d): the rows
    P_TUNING                  the same: PEFT saves the output of its prompt encoder, and drops the encoder
    MULTITASK_PROMPT_TUNING   also prefix_task_cols (T, S V, r), prefix_task_rows (T, r, d); the rows of task t are
                              prompt_embeddings * (cols[t] rows[t]), entry by entry
    PROMPT_TUNING_LORA        DePT, in the fork of PEFT of its authors (https://github.com/ZhengxiangShi/DePT): also
                              prompt_encoder.lora_embedding_A (s, r), prompt_encoder.lora_embedding_B (r, d); the
                              offset of source position i is (lora_alpha / sqrt r) A[i] B

Shi & Lipani select an offset by the column of a text padded to s tokens. Their encoder-decoder runs pad on the right,
where the column is the position of the source token, as here. Their decoder-only runs pad on the left, so columns count
from the end, in training from the end of the target: another function of the same tensors, so it is refused.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

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
"""Known keys of each type's config. With a key that is not here, a newer PEFT may compute something else."""

COLS, ROWS = "prefix_task_cols", "prefix_task_rows"
A, B = "prompt_encoder.lora_embedding_A", "prompt_encoder.lora_embedding_B"


@dataclass(frozen=True)
class Imported:
    """A soft prompt that was made of an adapter, and what the adapter says about it."""

    prompt: SoftPrompt
    method: str
    options: Mapping[str, object]
    """The method's options, as far as an adapter records them."""
    backbone_kind: Literal["causal", "seq2seq"] | None
    """None when the adapter does not say."""
    positions: int | None = None
    """Source positions that have an offset; None without one."""
    notes: list[str] = field(default_factory=list)
    """What the user should know."""


def interpret(adapter: Adapter, task: int | None = None) -> Imported:
    """Make a soft prompt of an adapter; `task` is the index of a multi-task prompt's task.

    Raises BadArtefact for an adapter that is not a soft prompt, or whose files do not match; BadInput for a bad `task`.
    """
    peft_type = adapter.peft_type
    if peft_type not in KEYS:
        raise BadArtefact(
            f"{adapter.config_path} is of type {peft_type!r}; a soft prompt can be made only of "
            f"{', '.join(KEYS)}. What works inside the model's layers (LoRA, prefix tuning) is not a soft prompt."
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
        rows = rows * _task_factor(adapter, task, len(rows))
    note = MULTITASK_DECODER if multitask else SECOND_HALF
    return _free(rows, backbone_kind, [note] if _copies(adapter) == 2 else [])


SECOND_HALF = (
    "PEFT saves twice the rows that it uses for an encoder-decoder; the second half, neither trained nor read, is left "
    "out."
)
MULTITASK_DECODER = (
    "PEFT trains a multi-task prompt of an encoder-decoder with rows in the decoder too, and generates without them. "
    "The rows that it generates with are imported."
)


def _free(rows: Tensor, backbone_kind: Literal["causal", "seq2seq"] | None, notes: list[str]) -> Imported:
    return Imported(SoftPrompt(Free(rows)), "prompt_tuning", {"length": len(rows)}, backbone_kind, notes=notes)


def _dept(adapter: Adapter, rows: Tensor, backbone_kind: Literal["causal", "seq2seq"] | None) -> Imported:
    """Convert a checkpoint of DePT's authors; rows (m,d)."""
    rank, alpha, positions = (_count(adapter, name) for name in ("r", "lora_alpha", "max_length"))
    notes = [SECOND_HALF] if _copies(adapter) == 2 else []
    if backbone_kind == "causal":
        raise BadArtefact(
            f"{adapter.config_path} is a DePT of a decoder-only model. Its authors' code pads those on the left and "
            "counts offsets from the end of the text, not from its start. Train it again with --method dept."
        )
    missing = [name for name in (A, B) if name not in adapter.tensors]
    if missing and rank:
        raise BadArtefact(
            f"{adapter.folder} holds {', '.join(adapter.tensors)} but not {' and '.join(missing)}: the offset was not "
            "saved, and the rows without it are another prompt. (Of the authors' 17 checkpoints, cola and sst2 are "
            "whole.)"
        )
    if not rank:  # the authors' code then scales the offset by 0
        return _free(rows, backbone_kind, notes)
    _expect(adapter, {"prompt_embeddings", A, B})
    d = rows.shape[1]
    offset = PositionLowRank(positions, rank, d, alpha=float(alpha))
    with torch.no_grad():
        offset.a.copy_(_tensor(adapter, A, (positions, rank)))
        offset.b.copy_(_tensor(adapter, B, (rank, d)))
    offset.reached[:] = True  # the authors' code adds every row, whether trained or not
    untouched = _count_untrained(offset.a, 1 / math.sqrt(rank))
    if 0 < untouched < positions:
        notes.append(
            f"The last {untouched} of {positions} rows of A lie where the authors' code draws them at random, so no "
            "training text was that long: longer texts get a random offset there, as in the authors' code. "
            f"--max-source {positions - untouched} avoids it."
        )
    options = {"length": len(rows), "rank": rank, "positions": positions, "alpha": float(alpha)}
    return Imported(SoftPrompt(Free(rows), offset), "dept", options, backbone_kind, positions, notes)


def _count_untrained(a: Tensor, bound: float) -> int:
    """Count the rows at the end of A (s,r) within +-`bound`, the range that initial values are drawn from."""
    inside = (a.detach().abs() <= bound).all(1).tolist()
    return next((i for i, ok in enumerate(reversed(inside)) if not ok), len(inside))


def _task_factor(adapter: Adapter, task: int | None, length: int) -> Tensor:
    """Compute the factor (l,d) of a multi-task prompt's rows for one task."""
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
    """Return the rows (l,d) that PEFT reads."""
    length, copies = _count(adapter, "num_virtual_tokens"), _copies(adapter)
    if backbone_kind != "seq2seq" and copies != 1:
        raise BadArtefact(
            f"{adapter.config_path}: num_transformer_submodules={copies} without an encoder-decoder, which PEFT itself "
            "cannot run (it prepends all rows, and masks some of them). Expected 1."
        )
    d = None if adapter.config.get("token_dim") is None else _count(adapter, "token_dim")
    return _tensor(adapter, "prompt_embeddings", (length * copies, d))[:length].clone()


def _backbone_kind(adapter: Adapter) -> Literal["causal", "seq2seq"] | None:
    task_type = adapter.config.get("task_type")
    if task_type is None:
        return None
    if not isinstance(task_type, str) or task_type not in KINDS:
        raise BadArtefact(
            f"{adapter.config_path} is for the task type {task_type!r}; expected {' or '.join(KINDS)}, the "
            "models that generate text."
        )
    return KINDS[task_type]


def _copies(adapter: Adapter) -> int:
    return _count(adapter, "num_transformer_submodules", 2 if adapter.config.get("task_type") == "SEQ_2_SEQ_LM" else 1)


def _count(adapter: Adapter, name: str, default: int | None = None) -> int:
    value = adapter.config.get(name)
    value = default if value is None else value
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise BadArtefact(f"{adapter.config_path}: {name}={value!r}; expected a count.")
    return value


def _check_keys(adapter: Adapter) -> None:
    known = KEYS[adapter.peft_type]
    unknown = {name: value for name, value in adapter.config.items() if name not in known and value}
    if unknown:
        by = adapter.config.get("peft_version") or "another version"
        said = ", ".join(f"{name}={value!r}" for name, value in unknown.items())
        raise BadArtefact(
            f"{adapter.config_path}, written by PEFT {by}, has {said}; softprompt knows the keys of PEFT up to 0.21.2, "
            "and cannot tell what this one changes. If it changes nothing, remove it from the file."
        )
    if others := adapter.config.get("modules_to_save"):
        raise BadArtefact(
            f"{adapter.config_path}: modules_to_save={others!r}. Parts of the model itself were trained with the "
            "prompt, which works only with them."
        )


def _expect(adapter: Adapter, names: set[str]) -> None:
    others = sorted(set(adapter.tensors) - names)
    if others:
        raise BadArtefact(
            f"{adapter.folder} holds the tensors {', '.join(others)} beside {', '.join(sorted(names))}; expected only "
            "those."
        )


def _tensor(adapter: Adapter, name: str, shape: tuple[int | None, ...]) -> Tensor:
    """Return a tensor in float32; None in `shape` allows any size. Raises BadArtefact."""
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
