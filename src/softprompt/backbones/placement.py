"""Place a prompt's rows among an example's tokens: an option of the backbone, the same for every method.

    front          [soft tokens][BOS][source][target]
    after_bos      [BOS][soft tokens][source][target]
    after_source   [BOS][source][soft tokens][target]

BOS stands for whatever special tokens the tokenizer puts in front of a text (BOS, [CLS]); where it puts none, after_bos
is front. The source ends with its cue and, in an encoder, with the special tokens that close it; in a decoder and in
a masked backbone the rows of after_source stand directly before the answer. Offsets are by rank of the source token, so
a placement does not move them.
"""

from collections.abc import Sequence
from typing import Literal, get_args

from softprompt.errors import UnknownName

Placement = Literal["front", "after_bos", "after_source"]
PLACEMENTS: tuple[Placement, ...] = get_args(Placement)


def check_placement(name: str) -> Placement:
    """Return `name` if it is a placement. Raises UnknownName."""
    for placement in PLACEMENTS:
        if name == placement:
            return placement
    raise UnknownName("placement", name, PLACEMENTS)


def tokens_before(source: Sequence[int], opening: Sequence[int], placement: Placement) -> int:
    """Count the tokens of a source that stand before the prompt; texts begin with the special tokens `opening`."""
    if placement == "after_source":
        return len(source)
    opened = list(source[: len(opening)]) == list(opening)
    return len(opening) if placement == "after_bos" and opened else 0
