"""The one rule for random decisions: a generator is a function of what the decision is about."""

from __future__ import annotations

import hashlib

import torch


def seeded_generator(*parts: int | str) -> torch.Generator:
    """A generator whose stream depends on ``parts`` alone, such as (seed, epoch, utterance id).

    A resumed run passes the same parts and so repeats the uninterrupted run. Several parts are hashed together. A
    single integer is the seed itself: studies that draw all their data from one stream have published numbers that
    depend on it.
    """
    if len(parts) == 1 and isinstance(parts[0], int):
        return torch.Generator().manual_seed(parts[0])
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") & (2**63 - 1))
