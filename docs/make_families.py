"""Try every family of models that transformers has, tiny and random: `python -m docs.make_families`, from the root.

Writes results/families.json and, from it, the table in docs/backbones.md. Takes about two minutes.
"""

import json
import logging
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
import transformers
from tests import any_model, tiny
from tests.prompts import soft_prompt

from softprompt.backbones import Backbone, Causal
from softprompt.backbones.families import find_family
from softprompt.errors import BadInput
from softprompt.methods.bank import Bank
from softprompt.tasks import Example

ROOT = Path(__file__).parents[1]
FILE, RESULTS = ROOT / "docs" / "backbones.md", ROOT / "results" / "families.json"
BEGIN, END = "<!-- made by python -m docs.make_families -->\n", "<!-- end -->\n"
HUGE = ("luke", "perceiver", "vibevoice_asr")
"""Types whose smallest model takes minutes."""
CHOICES = ("good", "bad")
SHORT, LONG = (
    Example("hello", "good", choices=CHOICES),
    Example("the invoice is wrong how do i log in", "bad", "", CHOICES),
)
Outcome = dict[str, Any]


def try_family(kind: str, model_type: str) -> Outcome | None:
    """Say how models of a type go as this kind of backbone; None where no tiny one can be made, or of another kind."""
    try:
        model = any_model.small_model(kind, model_type)
        model(
            input_ids=torch.tensor([[5, 6, 7, 8]]),
            **({"decoder_input_ids": torch.tensor([[5]])} if kind == "seq2seq" else {}),
        )
    except Exception:  # noqa: BLE001  # its default config made small is not one of its configs
        return None
    family = find_family(model.config)  # type: ignore[arg-type]
    if family is None or family.name != kind:
        return None
    masked = kind == "masked"
    tokenizer = tiny.tokenizer(bos=masked, eos=kind != "causal", mask=masked)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            backbone = family.backbone(model, tokenizer, model_type)
            backbone.check()
            return {
                "type": model_type, "kind": kind, "rows": backbone.grouping, "text": backbone.generates,
                "packed": isinstance(backbone, Causal) and backbone.can_pack(()), "embeds": _reads_embeds(backbone),
                "alone": _answers_as_alone(backbone), "learns": _learns(backbone),
            }  # fmt: skip
    except BadInput as error:
        return {"type": model_type, "kind": kind, "refused": str(error)}


def _reads_embeds(backbone: Backbone) -> bool:
    """Whether the network computes the same from its table's rows as from the ids."""
    ids = torch.tensor([backbone.tokens.encode(LONG.source)])
    start = {"decoder_input_ids": torch.tensor([[tiny.EOS, 5]])} if backbone.kind == "seq2seq" else {}
    with torch.no_grad():
        own = backbone.model(input_ids=ids, **start).logits
        try:
            embeds = backbone.model(inputs_embeds=backbone.embedding.table(ids), **start).logits
        except Exception:  # noqa: BLE001
            return False
    return bool((own - embeds).abs().max() <= 1e-3 * own.abs().max())


def _answers_as_alone(backbone: Backbone) -> bool:
    """Whether a short text is ranked beside a long one as alone, each with a prompt and an offset of its own."""
    with backbone.using(Bank({"p": soft_prompt(backbone, "dept"), "q": soft_prompt(backbone, "prompt_tuning")})):
        alone = torch.cat([backbone.rank([one], [i]) for i, one in enumerate((SHORT, LONG))])
        together = backbone.rank([SHORT, LONG], [0, 1])
    return bool((alone - together).abs().max() <= 1e-3 * alone.abs().max())


def _learns(backbone: Backbone) -> bool:
    """Whether the loss gives every tensor of a prompt a gradient."""
    bank = Bank({"p": soft_prompt(backbone, "dept")})
    with backbone.using(bank):
        backbone.loss(backbone.pose([SHORT, LONG], [0, 0], targets=True)).nll.sum().backward()
    return all(tensor.grad is not None and bool(tensor.grad.isfinite().all()) for tensor in bank.parameters())


def table(outcomes: list[Outcome]) -> str:
    """Write what was found as a table, families that go alike in one row."""
    lines = []
    groups: dict[tuple[str, ...], list[str]] = {}
    for one in outcomes:
        if "refused" not in one:
            assert one["alone"], f"{one['type']} answers otherwise in a batch"
            assert one["learns"], f"{one['type']} does not learn"
            said: Callable[[str], str] = lambda name: "yes" if one[name] else "no"  # noqa: B023, E731
            packed = said("packed") if one["kind"] == "causal" else "-"
            text = "-" if one["kind"] == "masked" else said("text")
            groups.setdefault((one["kind"], one["rows"], packed, text, said("embeds")), []).append(one["type"])
    for (kind, *how), types in sorted(groups.items(), key=lambda item: (item[0][0], -len(item[1]))):
        lines.append(f"| `{kind}` | {' | '.join(how)} | {', '.join(sorted(types))} |")
    refused = [one for one in outcomes if "refused" in one]
    count = len(outcomes) - len(refused)
    return "\n".join([
        f"{count} of {len(outcomes)} families of transformers {transformers.__version__}, each as a tiny random model; "
        "in all of them a text is ranked in a batch as it is alone, and every tensor of a prompt learns.",
        "",
        "| kind | rows together | packed | free text | ids = embeds | families |",
        "|---|---|---|---|---|---|",
        *lines,
        "",
        f"Refused when they are loaded, with the reason: {', '.join(sorted(one['type'] for one in refused))}.",
        "",
    ])  # fmt: skip


def page(text: str) -> str:
    """Return docs/backbones.md with the table in its place."""
    before, rest = text.split(BEGIN)
    return (
        before + BEGIN + table(json.loads(RESULTS.read_text(encoding="utf-8"))["families"]) + END + rest.split(END)[1]
    )


def main() -> None:
    """Try all families, keep what was found, write the table."""
    logging.disable(logging.WARNING)
    outcomes = []
    for kind, types in any_model.KINDS.items():
        for model_type in types:
            if model_type not in HUGE and (found := try_family(kind, model_type)):
                outcomes.append(found)
                print(found)
    made = {"transformers": transformers.__version__, "torch": torch.__version__, "families": outcomes}
    RESULTS.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
    FILE.write_text(page(FILE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
