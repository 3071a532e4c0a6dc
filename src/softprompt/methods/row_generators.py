"""What parts draw in training: a function of seed, step and text alone.

So the same example of the same step gets the same draw whatever else is in its batch, however the step is cut
into passes and whether or not the run was interrupted before: prompts stay independent of each other.
"""

import hashlib

import torch

from softprompt.methods.soft_prompt import Text


def generators(text: Text, seed: int, step: int) -> list[torch.Generator]:
    """A generator for each row of `text`."""
    found = []
    for ids, mask in zip(text.ids.cpu(), text.mask.cpu(), strict=True):
        said = f"{seed} {step} {ids[mask].tolist()}".encode()
        key = int.from_bytes(hashlib.sha256(said).digest()[:7])
        found.append(torch.Generator().manual_seed(key))
    return found
