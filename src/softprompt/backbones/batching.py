"""Choose which examples go through the network together: as many tokens as fit, as little padding as pays."""

from collections.abc import Iterator, Sequence

from softprompt.backbones.backbone import Backbone
from softprompt.backbones.ops.length_groups import group_lengths
from softprompt.tasks.task import Example

PASS_COST = 32
"""What one more pass of padded rows costs, in tokens."""


def passes(
    backbone: Backbone, examples: Sequence[Example], prompts: Sequence[int], limit: int, *, targets: bool = False
) -> Iterator[list[int]]:
    """Yield the indices of examples that go through `backbone` together.

    Packed rows are not padded: they are cut at the limit alone, prompt by prompt, as each pass computes its
    prompts anew. An encoder-decoder groups its rows itself. Elsewhere examples of like length go together, cut
    where one more pass costs less than the padding it saves. An example longer than the limit goes alone.

    Args:
        backbone: With the bank in use that prompts are of.
        examples: As many as there are prompts.
        prompts: Index of each example's prompt in the bank (-1: none).
        limit: About how many tokens a pass holds.
        targets: Count the tokens of targets, too.
    """
    bank, packed = backbone.embedding.bank, backbone.can_pack(prompts)
    backbone.tokens.read_sources(examples)
    if targets:
        backbone.tokens.read_targets(examples)
    sizes = [backbone.tokens.size(example, targets=targets) for example in examples]
    if not packed:
        sizes = [size + bank.longest([prompt]) for size, prompt in zip(sizes, prompts, strict=True)]
    order = sorted(range(len(examples)), key=lambda i: (prompts[i] if packed else 0, sizes[i]))
    if packed or backbone.family.sorts_rows:
        shared = [bank.longest([prompt]) if packed else 0 for prompt in prompts]
        yield from _filled(order, sizes, prompts, shared, limit)
    else:
        rows = [sizes[i] for i in order]
        for begin, end in group_lengths(rows, lambda g, s: g * s + PASS_COST, lambda g, s: g * s <= limit):
            yield order[begin:end]


def _filled(
    order: Sequence[int], sizes: Sequence[int], prompts: Sequence[int], shared: Sequence[int], limit: int
) -> Iterator[list[int]]:
    """Fill pass after pass; the first example of a prompt in a pass brings `shared` tokens with it."""
    group: list[int] = []
    total = 0
    for i in order:
        size = sizes[i] + (shared[i] if not group or prompts[group[-1]] != prompts[i] else 0)
        if group and total + size > limit:
            yield group
            group, total, size = [], 0, sizes[i] + shared[i]
        group.append(i)
        total += size
    if group:
        yield group
