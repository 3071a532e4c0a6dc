"""Per-row random generators, derived from seed, step and token ids so that batching never changes a draw.

The same example of the same step gets the same draw whatever else is in its batch, however the step is cut
into passes and whether or not the run was interrupted before: prompts stay independent of each other.
"""

import hashlib

import torch

from softprompt.methods.soft_prompt import Text


def generators(text: Text, seed: int, step: int) -> list[torch.Generator]:
    """Make a generator for each row of `text`."""
    found = []
    for ids, mask in zip(text.ids.cpu(), text.mask.cpu(), strict=True):
        key_text = f"{seed} {step} {ids[mask].tolist()}".encode()
        key = int.from_bytes(hashlib.sha256(key_text).digest()[:7])
        found.append(torch.Generator().manual_seed(key))
    return found
