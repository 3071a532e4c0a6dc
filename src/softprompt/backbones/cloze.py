"""An example as a cloze: a text with a gap, for backbones that fill masks.

A template needs no words of its own for that. The gap follows the source and its cue, and a full stop follows the gap,
as a model that has read sentences expects it (Schick & Schuetze 2021, https://arxiv.org/abs/2001.07676; Gao et al.
2021, https://arxiv.org/abs/2012.15723):

    Review: {sentence}\\nSentiment:                   Review: a fine film Sentiment: [MASK].
    Review: {sentence} It was {mask}, all in all.    Review: a fine film It was [MASK], all in all.

With {mask} in it, a template says where the gap is, and nothing is added.
"""

from typing import Literal, NamedTuple

from softprompt.errors import BadInput
from softprompt.tasks.task import Example, Scoring

BackboneKind = Literal["causal", "seq2seq", "masked"]
STOP = "."


class Cloze(NamedTuple):
    """The text about the gap; `head` and `tail` are of the source and may be cut at their ends."""

    head: str
    lead: str
    """Stands directly before the gap."""
    tail: str
    close: str

    @property
    def before(self) -> str:
        return self.head + self.lead

    @property
    def after(self) -> str:
        return self.tail + self.close


def as_cloze(example: Example) -> Cloze:
    """Where the gap of an example is: at `answer_at`, else behind the cue."""
    source, cue, at = example.source, example.cue, example.answer_at
    if at is None:
        return Cloze(source, f"{cue} ", "", STOP)
    if at >= len(source):
        return Cloze(source, cue[: at - len(source)], "", cue[at - len(source) :])
    return Cloze(source[:at], "", source[at:], cue)


def check_supported(
    kind: BackboneKind, name: str, *, choices: tuple[str, ...], mask: bool, scoring: Scoring = "ranked"
) -> None:
    """Raise BadInput when a backbone cannot be asked so: `choices` to choose among, with {mask} in the template."""
    if kind != "masked":
        if mask:
            raise BadInput(
                f"The template says with {{mask}} where the answer stands, and {name} ({kind}) answers at the end. "
                "Leave {mask} out, or give a masked backbone (BERT, RoBERTa, ModernBERT)."
            )
        return
    if not choices:
        raise BadInput(
            f"{name} is a masked backbone: it fills a gap with one of the choices, and here there are none, the "
            "answers are free text. Give a decoder-only or encoder-decoder backbone, or a task with choices."
        )
    if scoring == "generated":
        raise BadInput(
            f"{name} is a masked backbone: it ranks choices and generates nothing, and generated text is to be scored "
            "here. Use --protocol fair, leave --generate out, or give another kind of backbone."
        )
