"""Which examples go through the network together: as many tokens as fit, as little padding as pays."""

from collections.abc import Iterator, Sequence

from softprompt.backbones.backbone import Backbone
from softprompt.backbones.cutting import cut
from softprompt.tasks.task import Example


def passes(
    backbone: Backbone, examples: Sequence[Example], prompts: Sequence[int], limit: int, *, targets: bool = False
) -> Iterator[list[int]]:
    """Yield the indices of examples that go through `backbone` together, at most about `limit` tokens a pass.

    Where rows are padded, examples of like length go together, cut where one more pass costs less than the
    padding it saves. Packed rows are not padded: they are cut at the limit alone, prompt by prompt, as each
    pass computes its prompts anew. An example longer than the limit goes alone.
    """
    sizes = [backbone.size(example, targets=targets) for example in examples]
    packed = backbone.packs(prompts)
    order = sorted(range(len(examples)), key=lambda i: (prompts[i] if packed else 0, sizes[i]))
    if packed:
        yield from _filled(backbone, order, sizes, prompts, limit)
        return
    bank = backbone.embedding.bank
    rows = [sizes[i] + bank.longest([prompts[i]]) for i in order]
    each = 32 if backbone.device.type == "cpu" else 2048  # tokens that the launch of one more pass is worth
    for begin, end in cut(rows, lambda g, s: g * s + each, lambda g, s: g * s <= limit):
        yield order[begin:end]


def _filled(
    backbone: Backbone, order: Sequence[int], sizes: Sequence[int], prompts: Sequence[int], limit: int
) -> Iterator[list[int]]:
    group: list[int] = []
    total = 0
    for i in order:
        size = sizes[i]
        if not group or prompts[group[-1]] != prompts[i]:
            size += backbone.embedding.bank.longest([prompts[i]])
        if group and total + size > limit:
            yield group
            group, total = [], 0
            size = sizes[i] + backbone.embedding.bank.longest([prompts[i]])
        group.append(i)
        total += size
    if group:
        yield group
