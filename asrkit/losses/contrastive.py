"""InfoNCE: finding a context's candidate among many (van den Oord et al. 2018, arXiv 1807.03748, eq. 4)."""

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
        (N,) losses: ln N for equal similarities, ln(1 + (N − 1)·exp(−1/temperature)) if a query equals its key and is
        orthogonal to the others.
    """
    dtype = torch.promote_types(queries.dtype, torch.float32)
    with torch.autocast(queries.device.type, enabled=False):
        similarity = F.normalize(queries.to(dtype), dim=-1) @ F.normalize(keys.to(dtype), dim=-1).T
    targets = torch.arange(len(queries), device=queries.device)
    return F.cross_entropy(similarity / temperature, targets, reduction="none")
