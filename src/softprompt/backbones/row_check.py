"""Check how rows may go through a network together: once, on its own weights, against each row by itself.

Padding should change nothing, nor should a second row. Not every network of transformers holds to that: recurrences
read padding as text, decoders count positions by column, convolutions mix neighbors. And some answer otherwise when
they are given the mask and positions that a batch needs, or generate otherwise than they score.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from softprompt.backbones.batch import Batch
from softprompt.errors import BadInput, first_line
from softprompt.methods.bank import Bank
from softprompt.methods.embedding import IGNORED
from softprompt.methods.soft_prompt import PromptPart, SoftPrompt, Text

if TYPE_CHECKING:
    from softprompt.backbones.backbone import Backbone

Grouping = Literal["padded", "alike", "alone"]
"""Which rows go through the network together: any, padded; those of one length; none."""
GROUPINGS: tuple[Grouping, ...] = get_args(Grouping)

# Largest relative difference of scores, losses and gradients; what a wrong route gets wrong is of the order of 1.
TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3, torch.float16: 0.03, torch.bfloat16: 0.15}
SIZES, PROMPTS = (4, 13, 4, 1), (0, 0, 0, -1)
NEW = 6
"""Tokens that are generated."""


class RowCheck(NamedTuple):
    """What was found out."""

    grouping: Grouping
    no_text: str = ""
    """Why it cannot answer in free text; "" when it can, or its family does not."""


class FixedRows(PromptPart):
    """Prompt rows as they are given."""

    def __init__(self, rows: Tensor) -> None:
        super().__init__()
        self.rows, self.length = nn.Parameter(rows), len(rows)

    def forward(self, text: Text | None) -> Tensor:
        return self.rows


class Probe(NamedTuple):
    """Rows of several lengths, with a prompt and without."""

    bank: Bank
    sources: list[list[int]]
    targets: list[list[int]]

    def lay(self, backbone: "Backbone", rows: Sequence[int], targets: Sequence[Sequence[int]] | None) -> Batch:
        """Lay out some of the rows, with these targets or without."""
        sources = [self.sources[i] for i in rows]
        return backbone.lay(sources, [PROMPTS[i] for i in rows], targets, (False,) * len(sources))


def check_rows(backbone: "Backbone") -> RowCheck:
    """Find out which rows of `backbone` may be computed together, and whether it generates as it scores.

    Raises BadInput where its network does not read soft tokens or gives them no gradient, gives scores that are not
    numbers, or has no route that computes what it computes for ids alone.
    """
    with backbone.with_dropout(False):
        try:
            probe = _make_probe(backbone)
            with backbone.using(probe.bank):
                batch = probe.lay(backbone, range(len(SIZES)), probe.targets)
                own = _own_scores(backbone, batch)
                slopes = _slopes(backbone, probe.bank, batch)
                other = [[first, first] for first, _ in probe.targets]  # another last token
                ahead = _own_scores(backbone, probe.lay(backbone, [0], other[:1]))[0]
        except BadInput:
            raise
        except Exception as error:  # whatever a model of somebody else's raises
            raise BadInput(
                f"The backbone {backbone.name!r} does not read soft tokens: its network raises "
                f"{type(error).__name__}: {first_line(error).rstrip('.')}. Give another backbone."
            ) from error
        if not bool(slopes.isfinite().all()) or any(bool(scores.isnan().any()) for scores in own):
            raise BadInput(
                f"The backbone {backbone.name!r} computes values that are not numbers in {backbone.dtype}. Give "
                "--dtype float32, or weights that are whole."
            )
        if not _close(ahead, own[0], backbone.dtype):
            raise BadInput(
                f"The backbone {backbone.name!r} is used as {backbone.family.title}, and its scores for a token depend "
                "on the tokens after it. Say so in its config.json if it is a decoder (is_decoder), or give another."
            )
        with torch.no_grad(), backbone.using(probe.bank):
            grouping = _grouping(backbone, batch, own)
            return RowCheck(grouping, _why_no_text(backbone, probe) if backbone.family.generates else "")


def _make_probe(backbone: "Backbone") -> Probe:
    ids, tokens = backbone.ordinary_ids(), backbone.tokens
    words = [[ids[(37 * i + n) % len(ids)] for i in range(n)] for n in SIZES]
    sources = [[*tokens.opening, *row, *tokens.closing()] for row in words]
    targets = [[ids[i % len(ids)], ids[(5 * i + 2) % len(ids)]] for i in range(len(SIZES))]
    part = FixedRows(backbone.embed(words[1][:3])).to(backbone.device)
    return Probe(Bank({"probe": SoftPrompt(part)}), sources, targets)


def _own_scores(backbone: "Backbone", batch: Batch) -> list[Tensor]:
    left = backbone.labels_on_right()
    with torch.no_grad():
        return [backbone.own_scores(batch.take([i], left=left))[0].double() for i in range(len(batch.prompts))]


def _slopes(backbone: "Backbone", bank: Bank, batch: Batch) -> Tensor:
    """Compute the gradient that a prompt gets."""
    with torch.enable_grad():
        scores = backbone.own_scores(batch.take([0], left=backbone.labels_on_right()))
        (slopes,) = torch.autograd.grad(scores[0, :, 0].sum(), list(bank.parameters()))
    return slopes


def _grouping(backbone: "Backbone", batch: Batch, own: Sequence[Tensor]) -> Grouping:
    tried: tuple[tuple[Grouping, Sequence[int]], ...] = (
        ("padded", range(len(own))), ("alike", (0, 2)), ("alone", range(len(own))),
    )  # fmt: skip
    for grouping, rows in tried:
        backbone.grouping = grouping
        if _agrees(backbone, batch.take(rows, left=backbone.labels_on_right()), [own[i] for i in rows]):
            return grouping
    raise BadInput(
        f"The backbone {backbone.name!r} computes other scores for an example beside others than for it alone, and "
        "other ones when each goes by itself. Give another backbone."
    )


def _agrees(backbone: "Backbone", batch: Batch, own: Sequence[Tensor]) -> bool:
    try:
        together = backbone.plain_scores(batch)  # (b, t, v)
    except Exception:  # noqa: BLE001  # a mask or positions that the network does not take
        return False
    assert batch.labels is not None
    return all(
        _close(scores[labels != IGNORED], row, backbone.dtype)
        for scores, row, labels in zip(together.double(), own, batch.labels, strict=True)
    )


def _close(found: Tensor, expected: Tensor, dtype: torch.dtype) -> bool:
    finite = expected.isfinite()  # some tokens of a vocabulary may have scores of -inf
    gap = (found - expected)[finite].abs().max()
    return float(gap) <= TOLERANCE[dtype] * float(expected[finite].abs().max())


def _why_no_text(backbone: "Backbone", probe: Probe) -> str:
    """Say why generation does not follow the scores of a forward, in rows as they go together; "" if it does."""
    rows = (0, 1) if backbone.grouping == "padded" else (0,)
    options = {"max_new_tokens": NEW, "min_new_tokens": NEW, "output_logits": True, "return_dict_in_generate": True}
    try:
        made: Any = backbone.generate(probe.lay(backbone, rows, None), **options)
    except Exception as error:  # noqa: BLE001  # whatever a model of somebody else's raises
        return f"its generation raises {type(error).__name__}: {first_line(error).rstrip('.')}"
    seen = torch.log_softmax(torch.stack(made.logits, 1).double(), -1)  # (rows, NEW, v)
    scores = backbone.plain_scores(probe.lay(backbone, rows, made.sequences[:, -NEW:].tolist())).double()
    agree = all(_close(one, other, backbone.dtype) for one, other in zip(seen, scores, strict=True))
    return "" if agree else "what it generates follows other scores than those of its own forward"
