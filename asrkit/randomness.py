"""The rule for random decisions: the generator is a function of the decision's subject."""

from __future__ import annotations

import hashlib

import torch


def seeded_generator(*parts: int | str) -> torch.Generator:
    """A generator whose stream depends only on ``parts``, such as (seed, epoch, utterance id).

    A resumed run passes the same parts and therefore repeats the uninterrupted run. Several parts are hashed together.
    A single integer is the seed itself, as published numbers of studies depend on this.
    """
    if len(parts) == 1 and isinstance(parts[0], int):
        return torch.Generator().manual_seed(parts[0])
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") & (2**63 - 1))
