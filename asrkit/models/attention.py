"""Multi-head self-attention with relative positions."""

from __future__ import annotations

import torch
from torch import nn


class RelativeSelfAttention(nn.Module):
    """Self-attention whose scores add q·r(j - i), r a learned table over relative positions.

    Shaw et al. 2018 (arXiv 1803.02155), eq. 4: e_ij = q_i (k_j + r_{j-i})ᵀ / sqrt(d). The heads share the table;
    distances beyond ``max_distance`` use its ends.
    """

    def __init__(self, d_model: int, num_heads: int, head_dim: int, max_distance: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.head_dim = head_dim
        self.max_distance = max_distance
        self.query_value = nn.Linear(d_model, 2 * num_heads * head_dim)
        # A bias of the keys adds the same to all scores of a query, so its gradient is rounding noise.
        self.key = nn.Linear(d_model, num_heads * head_dim, bias=False)
        self.relative = nn.Parameter(torch.randn(2 * max_distance + 1, self.head_dim) * self.head_dim**-0.5)
        self.out = nn.Linear(num_heads * head_dim, d_model)

    def forward(self, x: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        """Attends over a batch.

        Args:
            x: (B, T, D).
            bias: (B, 1, 1, T), 0 for real keys and -inf for padding.

        Returns:
            (B, T, D).
        """
        batch, time, _ = x.shape
        qv = self.query_value(x).view(batch, time, 2, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        q, v = qv.unbind(0)  # each (B, H, T, d)
        k = self.key(x).view(batch, time, self.num_heads, self.head_dim).transpose(1, 2)  # (B, H, T, d)
        q = q * self.head_dim**-0.5
        scores = q @ k.transpose(-1, -2) + self._relative_scores(q)  # (B, H, T, T)
        weights = torch.softmax(scores + bias.to(scores.dtype), dim=-1)
        attended = (weights @ v).transpose(1, 2).reshape(batch, time, -1)
        result: torch.Tensor = self.out(attended)
        return result

    def _relative_scores(self, q: torch.Tensor) -> torch.Tensor:
        """(B, H, T, d) queries to (B, H, T, T) scores: entry (i, j) is q_i · r(j - i)."""
        batch, heads, time, _ = q.shape
        distance = torch.arange(1 - time, time + 1, device=q.device).clamp(-self.max_distance, self.max_distance)
        table = self.relative[distance + self.max_distance]  # (2T, d), column c is distance c - (T - 1)
        by_distance = (q @ table.t().to(q.dtype)).view(batch, heads, 2 * time * time)
        # Row i needs columns T - 1 - i … 2T - 2 - i: one less per row, so rows of 2T - 1, starting at column T - 1.
        rows = by_distance[:, :, time - 1 : time - 1 + time * (2 * time - 1)]
        return rows.view(batch, heads, time, 2 * time - 1)[..., :time]
