"""Write a tuned prompt for vLLM as of 0.33.0, with a client.

https://docs.vllm.ai/en/stable/features/prompt_embeds/

    prompt.safetensors, prompt.json   as in a run (softprompt.runs.prompt): `softprompt predict` reads the folder too
    client.py                         makes vLLM's requests and reads its answers, without softprompt
    vllm.json                         what client.py needs to know of the backbone; written last
    README.md                         how to use it there

vLLM takes the embeddings of a whole input, so every prompt works that can be computed from rows, text and embedding
table. Nothing of vLLM is imported. What was read of its code, and in which version: docs/vllm.md.
"""

from importlib.metadata import version
from pathlib import Path
from typing import TypedDict

import torch
from torch import nn
from transformers import PretrainedConfig

from softprompt.backbones.bundled import EMBEDDED
from softprompt.backbones.families import get_family
from softprompt.backbones.load import resolve
from softprompt.errors import BadInput
from softprompt.runs.formats.registry import BackboneFacts
from softprompt.runs.prompt import FOLDED, Prompt, PromptCard
from softprompt.runtime.files import file_sha256, make_folder, write_json, write_text
from softprompt.runtime.logging import quiet_loading
from softprompt.tasks import Template
from softprompt.tasks.known_shapes import CONVERSATION

READ = "0.33.0"
"""Version of vLLM whose code was read."""
BLOCK = 16
"""Positions in a block of vLLM's prefix cache, by default."""
CONFIG, CLIENT = "vllm.json", "client.py"

KNOWN = frozenset(
    [
        *("bloom", "falcon", "gemma", "gemma2", "gemma3_text", "gpt2", "gpt_neox", "gpt_oss", "granite", "llama"),
        *("mistral", "olmo2", "phi", "qwen2", "qwen3", "smollm3", "stablelm", "starcoder2"),
    ]
)
"""Model types whose code in vLLM was read: embeddings enter the network where they do in transformers."""


class VllmFacts(TypedDict):
    """vllm.json, but for the hash: what the client needs to know of the backbone."""

    format: int
    softprompt: str
    vllm: str
    type: str
    table: str
    """Name of the embedding table among the model's parameters."""
    scale: float
    """Factor of an embedding."""
    context: int | None


def write_vllm(prompt: Prompt, backbone: BackboneFacts, folder: Path) -> list[str]:
    """Write `prompt` to `folder`, with a client for vLLM. Returns notes for the user.

    Raises BadInput, before anything is written, for a prompt that vLLM cannot use.
    """
    card = prompt.card
    facts = _check(card, backbone)
    make_folder(folder)
    (folder / CONFIG).unlink(
        missing_ok=True
    )  # an overwritten folder has an old one, which must never be beside the new tensors
    prompt.save(folder)
    write_text(folder / CLIENT, Path(__file__).with_name("vllm_client.py").read_text(encoding="utf-8"))
    notes = _notes(card, facts["type"])
    write_text(folder / "README.md", _readme(card, notes))
    write_json(folder / CONFIG, {**facts, "sha256": file_sha256(folder / FOLDED)})
    if backbone.name in EMBEDDED:  # only printed: a path on this machine is not for the folder's README
        notes = [
            *notes,
            f"Only softprompt knows {backbone.name} by name. Its folder: {resolve(backbone.name)[1]}",
        ]
    return notes


def _check(card: PromptCard, backbone: BackboneFacts) -> VllmFacts:
    """Check that vLLM can use the prompt, and read its backbone's facts. Raises BadInput."""
    ours = "Use it with softprompt itself: softprompt predict, softprompt evaluate"
    if card.kind == "input":
        raise BadInput(
            f"{card.name} ({card.method}) is of kind 'input': it depends on the text after it, so there are no tensors "
            f"to send to vLLM. {ours}."
        )
    if card.kind == "network":
        raise BadInput(
            f"{card.name} ({card.method}) is a baseline, not a prompt: it has no embeddings to send. {ours}."
        )
    if not get_family(backbone.kind).decoder_only:
        raise BadInput(
            f"{backbone.name} is not a decoder-only model ({backbone.kind}). vLLM {READ} takes prompt embeds "
            f"only for those, and does not serve T5. {ours}."
        )
    if card.placement != "front":
        raise BadInput(
            f"{card.name} has the placement {card.placement!r}; the client for vLLM puts rows in front. {ours}, "
            "or tune one with --placement front."
        )
    if card.chat is not None and Template(card.template).fields == [CONVERSATION]:
        raise BadInput(
            f"{card.name} reads conversations, which the client for vLLM does not put into a chat template. {ours}."
        )
    config, table, name = _embedding(backbone.name)
    if getattr(config, "hidden_size_per_layer_input", 0):
        raise BadInput(
            f"{backbone.name} ({config.model_type}) looks up token ids in every layer, and soft tokens have "
            f"no ids that vLLM knows. {ours}."
        )
    # transformers 5.23.0: the embeddings of Gemma and others scale their output by this attribute.
    scale = getattr(table, "scalar_embed_scale", None if type(table) is not nn.Embedding else 1.0)
    if scale is None:
        raise BadInput(
            f"{backbone.name} ({config.model_type}) has an embedding layer of its own ({type(table).__name__}), "
            f"which the client for vLLM cannot compute. {ours}."
        )
    return {
        "format": 1,
        "softprompt": version("softprompt"),
        "vllm": READ,
        "type": config.model_type,
        "table": f"{name}.weight",
        "scale": float(scale),
        "context": backbone.context,
    }


def _embedding(name: str) -> tuple[PretrainedConfig, nn.Module, str]:
    """Return config, input embedding and its name in the model `name`; no weights are read."""
    from transformers import AutoConfig, AutoModelForCausalLM

    with quiet_loading(), torch.device("meta"):
        config = AutoConfig.from_pretrained(resolve(name)[1])
        model = AutoModelForCausalLM.from_config(config)
    table = model.get_input_embeddings()
    return config.get_text_config(), table, next(path for path, module in model.named_modules() if module is table)


def _notes(card: PromptCard, model_type: str) -> list[str]:
    notes = []
    if card.length % BLOCK:
        lost, before = card.length % BLOCK, card.length - card.length % BLOCK
        notes.append(
            f"{card.length} rows are not a multiple of {BLOCK}: vLLM's prefix cache keeps {before}, and {lost} are "
            f"computed again for every request. Rows added now would change the answers; train with "
            f"--set length={before + BLOCK} where that matters."
        )
    if model_type not in KNOWN:
        notes.append(
            f"vLLM's code for {model_type!r} was not read. Compare its answers to some texts with those of softprompt "
            "predict before you rely on them."
        )
    return notes


def _readme(card: PromptCard, notes: list[str]) -> str:
    template = card.template.replace("`", "'")
    backbone = f"FOLDER-OF-{card.backbone}" if card.backbone in EMBEDDED else card.backbone
    noted = "".join(f"\n- {note}" for note in notes)
    return f"""---
base_model: {card.backbone}
tags: [soft-prompt, vllm, {card.method.replace("_", "-")}]
---

# {card.name}

A soft prompt of {card.length} rows (kind `{card.kind}`) for `{card.backbone}` (task `{card.task}`), exported from
softprompt for vLLM {READ}.

```python
from client import Client
from vllm import LLM, SamplingParams

client, llm = Client("{backbone}"), LLM("{backbone}", enable_prompt_embeds=True)
client.read(llm.generate(client.prompts("your text"), SamplingParams(**client.sampling())))
```

Over HTTP:

```sh
vllm serve {backbone} --enable-prompt-embeds          # only for clients you trust
python client.py --backbone {backbone} "your text" |
    curl -s localhost:8000/v1/completions -H 'Content-Type: application/json' -d @-      # client.read_response
```

`client.py` puts a text (or a row with several columns) into this template:

```
{template}
```

Answers: {", ".join(card.choices) or "free text"}.

- It was tuned for {card.fingerprint.short()}, and answers only there.{noted}
"""
