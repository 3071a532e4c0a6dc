"""Turn an example into a cloze, a text with a gap, for backbones that fill masks.

A template needs no {mask} for that. The gap follows the source and its cue, and a full stop follows the gap,
as a model that has read sentences expects it (Schick & Schuetze 2021, https://arxiv.org/abs/2001.07676; Gao et al.
2021, https://arxiv.org/abs/2012.15723):

    Review: {sentence}\\nSentiment:                   Review: a fine film Sentiment: [MASK].
    Review: {sentence} It was {mask}, all in all.    Review: a fine film It was [MASK], all in all.

With {mask} in it, a template says where the gap is, and nothing is added.
"""

from typing import NamedTuple

from softprompt.tasks.task import Example

STOP = "."


class Cloze(NamedTuple):
    """The text around the gap; `head` and `tail` come from the source and may be cut at their ends."""

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
    """Split an example at its gap: at `answer_at`, else after the cue."""
    source, cue, at = example.source, example.cue, example.answer_at
    if at is None:
        return Cloze(source, f"{cue} ", "", STOP)
    if at >= len(source):
        return Cloze(source, cue[: at - len(source)], "", cue[at - len(source) :])
    return Cloze(source[:at], "", source[at:], cue)
