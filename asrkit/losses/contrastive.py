"""InfoNCE: which of many candidates belongs to a context (van den Oord et al. 2018, arXiv 1807.03748, eq. 4)."""

from __future__ import annotations

import torch
from torch.nn import functional as F


def info_nce(queries: torch.Tensor, keys: torch.Tensor, temperature: float = 0.1) -> torch.Tensor:
    """−log probability of each query's own key among all keys, by cosine similarity.

    Args:
        queries: (N, D).
        keys: (N, D); key n belongs to query n, and the others are its negatives.
        temperature: similarities are divided by it (0.1 in Saif et al. 2024, arXiv 2401.06980).

    Returns:
        (N,) losses: ln N where nothing is known, ln(1 + (N − 1)·exp(−1/temperature)) where a query equals its key and
        is orthogonal to the others.
    """
    kind = torch.promote_types(queries.dtype, torch.float32)
    with torch.autocast(queries.device.type, enabled=False):
        similarity = F.normalize(queries.to(kind), dim=-1) @ F.normalize(keys.to(kind), dim=-1).T
    own = torch.arange(len(queries), device=queries.device)
    return F.cross_entropy(similarity / temperature, own, reduction="none")
