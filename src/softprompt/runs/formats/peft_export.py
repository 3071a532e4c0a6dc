"""Write a tuned prompt as an HF PEFT adapter. https://github.com/huggingface/peft, file format as of 0.21.2.

    adapter_model.safetensors   prompt_embeddings (l,d), float32
    adapter_config.json         peft_type PROMPT_TUNING and the sizes; written last, so a folder that has it is complete
    README.md                   how to use it with PEFT, and its limits

Every soft prompt that folds to rows alone (kind "prompt") is PROMPT_TUNING to PEFT, whatever made the rows. PEFT cannot
add anything to the embeddings of the source, so the other kinds are refused. Nothing of PEFT is imported.
"""

from pathlib import Path

from torch import nn

from softprompt.backbones.families import Family, get_family
from softprompt.backbones.load import skeleton
from softprompt.errors import BadInput
from softprompt.runs.formats.registry import BackboneFacts
from softprompt.runs.prompt import Prompt, PromptCard
from softprompt.runtime.files import make_folder, write_json, write_tensors, write_text

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"

_WHY_NOT = {
    "prompt+position": "adds an offset to the embeddings of the source, by position",
    "prompt+token": "adds an offset to the embeddings of the source, by token",
    "input": "depends on the text after it",
}


def write_peft(prompt: Prompt, backbone: BackboneFacts, folder: Path) -> list[str]:
    """Write `prompt` to `folder`, for `PeftModel.from_pretrained`. Raises BadInput for what PEFT cannot hold."""
    card, family = prompt.card, get_family(backbone.kind)
    if card.kind == "network":
        own = (
            "its folder already is an adapter of PEFT"
            if card.method.startswith("peft:")
            else "it is not an adapter of PEFT"
        )
        raise BadInput(f"{card.name} ({card.method}) is a baseline, not a prompt; {own}.")
    if card.kind in _WHY_NOT:
        raise BadInput(
            f"{card.name} is of kind {card.kind!r}: it {_WHY_NOT[card.kind]}. PEFT cannot represent that, and its rows "
            "alone are another prompt. Use it with softprompt (softprompt predict), or tune a method of kind 'prompt' "
            "(softprompt list methods) and export that."
        )
    if family.peft_task is None:
        doing = "models that fill masks" if family.fills_gaps else "such models"
        raise BadInput(
            f"{card.name} is for {family.title}, and PEFT has no prompt tuning for {doing}. Use it with softprompt "
            "(softprompt predict)."
        )
    if card.placement != "front":
        raise BadInput(
            f"{card.name} has the placement {card.placement!r}, and PEFT puts every prompt in front of all tokens, "
            "where its rows would give other answers. Use it with softprompt (softprompt predict), or tune one with "
            "--placement front and export that."
        )
    network = skeleton(backbone.name)
    # PEFT looks embeddings up in the table; Marian and others scale what they look up afterwards (transformers 5.23.0).
    if getattr(network.config, "scale_embedding", False) and type(network.get_input_embeddings()) is nn.Embedding:  # type: ignore
        raise BadInput(
            f"{card.name} is for {backbone.name}, which scales embeddings after its table; PEFT reads them before, and "
            "would answer otherwise. Use it with softprompt (softprompt predict)."
        )
    if card.length == 0:
        raise BadInput(f"{card.name} has no rows, and PEFT has no prompt of length 0.")
    make_folder(folder)
    (folder / CONFIG).unlink(
        missing_ok=True
    )  # an overwritten folder has an old one, which must never be beside the new tensors
    write_tensors(folder / TENSORS, {"prompt_embeddings": prompt.folded.prompt}, {"format": "pt"})
    write_text(folder / "README.md", _readme(card, family))
    write_json(folder / CONFIG, _config(card, family))
    return []


def _config(card: PromptCard, family: Family) -> dict[str, object]:
    """Return adapter_config.json. PEFT warns about keys that it does not know, so there are none."""
    return {
        "base_model_name_or_path": card.backbone,
        "inference_mode": True,
        # Without it PEFT 0.21.2 takes 2 for an encoder-decoder: it expects twice the rows, and reads the first half.
        "num_transformer_submodules": 1,
        "num_virtual_tokens": card.length,
        "peft_type": "PROMPT_TUNING",
        "prompt_tuning_init": "RANDOM",
        "task_type": family.peft_task,
        "token_dim": card.fingerprint.d,
    }


def _readme(card: PromptCard, family: Family) -> str:
    template = card.template.replace("`", "'")
    auto, batches = family.class_name, _CAUSAL_BATCHES if family.decoder_only else _SEQ2SEQ_BATCHES
    return f"""---
library_name: peft
base_model: {card.backbone}
tags: [soft-prompt, prompt-tuning, {card.method.replace("_", "-")}]
---

# {card.name}

A soft prompt of {card.length} rows for `{card.backbone}` (task `{card.task}`), exported from softprompt for HF PEFT.

```python
from peft import PeftModel
from transformers import {auto}, AutoTokenizer

model = PeftModel.from_pretrained({auto}.from_pretrained("{card.backbone}"), "FOLDER")
text = AutoTokenizer.from_pretrained("{card.backbone}")("your text, in the template", return_tensors="pt")
model.generate(**text, max_new_tokens=20)
```

Input template:

```
{template}
```

Answers: {", ".join(card.choices) or "free text"}.

## Batches

{batches}
## Limits

PEFT does not check which model it is used on. It was tuned for {card.fingerprint.short()}, and answers only there.
"""


_CAUSAL_BATCHES = """**Generate one text at a time.** PEFT puts the prompt before the padding. In a left-padded
batch, which is what `generate` needs, the padding is between the prompt and its text and shifts the positions, so
answers change. Alone, each text is answered as softprompt answers it; softprompt answers the same in any batch.
"""
_SEQ2SEQ_BATCHES = """Pad on the right, and pass the attention mask: then each row is answered as it is alone.
"""
