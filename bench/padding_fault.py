"""Does a prompt answer in a batch as it does alone? HF PEFT, which puts the prompt before the padding, and softprompt.

    python bench/padding_fault.py --output results/peft-padding.json

The toy: a decoder of two layers learns to write the first two, or the last two, of three to nine letters, as a task
token in front of them says. Then it is frozen, the task token is taken away, and PEFT tunes rows that say "first two",
padded on the right. Every text is answered greedily: alone, in left-padded batches (what `generate` needs), and
in batches with 16 more columns of padding, as a longer neighbour would bring. Both libraries read the file PEFT saved.
"""

import argparse
import json
import platform
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import peft
import torch
import transformers
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from softprompt import attach
from softprompt.methods.bank import Bank
from softprompt.runs.formats.peft_adapter import read_adapter
from softprompt.runs.formats.peft_import import interpret

PAD, END, ASK, FIRST, LAST, V = 0, 1, 2, 3, 4, 25
SIZES: dict[str, Any] = {"vocab_size": V, "pad_token_id": PAD, "bos_token_id": END, "eos_token_id": END}
TAUGHT = {"llama": (150, 3e-3), "gpt2": (400, 6e-3)}
"""Steps and rate with which a toy learns its two tasks."""
LENGTHS = {"llama": 4, "gpt2": 1}
"""Rows of its prompt. GPT-2 learns each position by itself: letters must stand where they stood, after one token."""
MORE = 16

Answers = list[list[int]]
Answer = Callable[[Tensor, Tensor], Tensor]
"""Ids and mask of left-padded texts (b, s) -> new ids (b, t)."""


def toy(family: str) -> nn.Module:
    """A decoder with rotary ("llama") or learned absolute positions ("gpt2")."""
    torch.manual_seed(0)
    if family == "llama":
        return LlamaForCausalLM(
            LlamaConfig(
                **SIZES, hidden_size=48, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
                num_key_value_heads=4, max_position_embeddings=64,
            )
        )  # fmt: skip
    return GPT2LMHeadModel(
        GPT2Config(**SIZES, n_embd=48, n_layer=2, n_head=4, n_positions=64, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0)
    )


def letters(count: int, draw: torch.Generator) -> list[list[int]]:
    """`count` texts of three to nine different letters."""
    sizes = torch.randint(3, 10, (count,), generator=draw).tolist()
    return [(torch.randperm(V - 5, generator=draw)[:size] + 5).tolist() for size in sizes]


def taught(texts: Sequence[list[int]], tasks: Sequence[int | None]) -> dict[str, Tensor]:
    """A right-padded batch: [task token] letters ASK, then the two letters to write."""
    answers = [row[-2:] if task == LAST else row[:2] for row, task in zip(texts, tasks, strict=True)]
    sources = [[*([] if task is None else [task]), *row, ASK] for row, task in zip(texts, tasks, strict=True)]
    whole = [source + answer for source, answer in zip(sources, answers, strict=True)]
    labels = [[-100] * len(source) + answer for source, answer in zip(sources, answers, strict=True)]
    n = max(map(len, whole))
    return {
        "input_ids": torch.tensor([row + [PAD] * (n - len(row)) for row in whole]),
        "attention_mask": torch.tensor([[1] * len(row) + [0] * (n - len(row)) for row in whole]),
        "labels": torch.tensor([row + [-100] * (n - len(row)) for row in labels]),
    }


def train(model: nn.Module, steps: int, rate: float, tasks: Sequence[int | None]) -> float:
    """AdamW on what is trainable; returns the last loss."""
    draw = torch.Generator().manual_seed(1)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=rate, weight_decay=0.0)
    loss = torch.tensor(torch.nan)
    for _ in range(steps):
        loss = model(**taught(letters(32, draw), [tasks[i % len(tasks)] for i in range(32)])).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return float(loss.detach())


def padded(rows: Sequence[list[int]], pad: int, more: int = 0) -> tuple[Tensor, Tensor]:
    """Ids and mask, padded on the left to the longest row and `more` columns."""
    n = max(map(len, rows)) + more
    ids = torch.tensor([[pad] * (n - len(row)) + row for row in rows])
    return ids, torch.tensor([[0] * (n - len(row)) + [1] * len(row) for row in rows])


def answered(answer: Answer, texts: Sequence[list[int]], pad: int, size: int, more: int = 0) -> Answers:
    made: Answers = []
    for i in range(0, len(texts), size):
        made += answer(*padded(texts[i : i + size], pad, more)).tolist()
    return made


def with_peft(model: nn.Module, folder: Path, tokens: int, pad: int) -> Answer:
    loaded = peft.PeftModel.from_pretrained(model, folder).eval()

    def answer(ids: Tensor, mask: Tensor) -> Tensor:
        made: Tensor = loaded.generate(
            input_ids=ids, attention_mask=mask, max_new_tokens=tokens, do_sample=False, pad_token_id=pad
        )
        return nn.functional.pad(made[:, ids.shape[1] :], (0, tokens), value=pad)[:, :tokens]

    return answer


def with_us(model: Any, folder: Path, tokens: int, pad: int) -> Answer:
    bank = Bank({"prompt": interpret(read_adapter(folder)).prompt})

    def answer(ids: Tensor, mask: Tensor) -> Tensor:
        soft = bank.soft_ids(0, model.get_input_embeddings().weight.shape[0])
        real = [row[one.bool()].tolist() for row, one in zip(ids, mask, strict=True)]
        ids, mask = padded([soft + row for row in real], pad, ids.shape[1] - max(map(len, real)))
        with attach(model, bank, pad), torch.no_grad():
            made: Tensor = model.generate(
                input_ids=ids, attention_mask=mask, max_new_tokens=tokens, do_sample=False, pad_token_id=pad
            )
        return nn.functional.pad(made[:, ids.shape[1] :], (0, tokens), value=pad)[:, :tokens]

    return answer


def compare(
    routes: dict[str, Answer], texts: Sequence[list[int]], right: Callable[[int, list[int]], bool], pad: int, size: int
) -> dict[str, dict[str, float]]:
    """For each route: the share of right answers, and of answers that are those of the same text alone."""
    found = {}
    for name, answer in routes.items():
        alone = answered(answer, texts, pad, 1)
        ways = {
            "alone": alone,
            "batch": answered(answer, texts, pad, size),
            f"batch_and_{MORE}": answered(answer, texts, pad, size, MORE),
        }
        found[name] = {}
        for way, made in ways.items():
            found[name][way] = sum(right(i, one) for i, one in enumerate(made)) / len(texts)
            found[name][f"{way}_as_alone"] = sum(one == two for one, two in zip(made, alone, strict=True)) / len(texts)
    return found


def measure(family: str, texts: int = 200, size: int = 50) -> dict[str, Any]:
    """Train a toy and its prompt, and compare the two libraries on texts that it has not seen."""
    model = toy(family)
    taught_loss = train(model, *TAUGHT[family], (FIRST, LAST))
    torch.manual_seed(0)
    tuned = peft.get_peft_model(
        model,
        peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=LENGTHS[family], prompt_tuning_init="RANDOM"),
    )
    with torch.no_grad():
        tuned.prompt_encoder["default"].embedding.weight.mul_(0.02)  # PEFT's start is 50 times an embedding
    tuned_loss = train(tuned, 100, 0.03, (None,))
    test = letters(texts, torch.Generator().manual_seed(2))
    with tempfile.TemporaryDirectory() as folder:
        tuned.save_pretrained(folder)
        routes = {"PEFT": with_peft(model, Path(folder), 2, PAD), "softprompt": with_us(model, Path(folder), 2, PAD)}
        found = compare(routes, [[*row, ASK] for row in test], lambda i, made: made == test[i][:2], PAD, size)
    return {"losses": {"model": taught_loss, "prompt": tuned_loss}, "texts": texts, "size": size, "scores": found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=200)
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    warnings.filterwarnings("ignore", message="Position ids are not supported")
    found = {family: measure(family, given.texts) for family in TAUGHT}
    packages = {module.__name__: module.__version__ for module in (peft, transformers, torch)}
    result = {
        "command": "python " + " ".join(sys.argv),
        "versions": packages,
        "python": platform.python_version(),
        **found,
    }
    text = json.dumps(result, indent=2) + "\n"
    if given.output:
        given.output.write_text(text)
    print(text, end="")


if __name__ == "__main__":
    main()
