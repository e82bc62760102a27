"""Joint network of the transducer."""

from __future__ import annotations

import torch
from torch import nn


class Joiner(nn.Module):
    """Logits of W_out tanh(W_enc h ∘ W_pred g), ∘ a sum or an element-wise product.

    The product is that of Saon et al. 2021 (arXiv 2103.09935), eq. 4.
    """

    def __init__(
        self, encoder_dim: int, predictor_dim: int, joiner_dim: int, vocab_size: int, combination: str
    ) -> None:
        super().__init__()
        if combination not in ("add", "multiply"):
            raise ValueError(f"combination must be add or multiply, got {combination}")
        self.combination = combination
        self.encoder_proj = nn.Linear(encoder_dim, joiner_dim)
        self.predictor_proj = nn.Linear(predictor_dim, joiner_dim)
        self.out = nn.Linear(joiner_dim, vocab_size)

    def combine(self, encoder_proj: torch.Tensor, predictor_proj: torch.Tensor) -> torch.Tensor:
        """Projected encoder and predictor outputs of shapes that broadcast, (..., J), to logits (..., V)."""
        if self.combination == "add":
            joint = encoder_proj + predictor_proj
        else:
            joint = encoder_proj * predictor_proj
        return self.out(torch.tanh(joint))

    def forward(self, encoder_out: torch.Tensor, predictor_out: torch.Tensor) -> torch.Tensor:
        """(B, T', D) and (B, U + 1, P) to logits (B, T', U + 1, V)."""
        encoder_proj = self.encoder_proj(encoder_out).unsqueeze(2)
        predictor_proj = self.predictor_proj(predictor_out).unsqueeze(1)
        return self.combine(encoder_proj, predictor_proj)
