"""Encoder, predictor and joiner in one module."""

from __future__ import annotations

import torch
from torch import nn

from asrkit.models.encoder import Encoder
from asrkit.models.joiner import Joiner
from asrkit.models.predictor import Predictor


class Transducer(nn.Module):
    """RNN transducer (Graves 2012, arXiv 1211.3711).

    Args:
        encoder: see :class:`Encoder`.
        predictor: see :mod:`asrkit.models.predictor`.
        joiner: see :class:`Joiner`.
    """

    def __init__(self, encoder: Encoder, predictor: Predictor, joiner: Joiner) -> None:
        super().__init__()
        self.encoder = encoder
        self.predictor = predictor
        self.joiner = joiner
        self.vocab_size = joiner.vocab_size
        """V, blank included."""

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return next(self.parameters()).device


class SimpleJoiner(nn.Module):
    """The two parts whose sum is the trivial joiner of the pruned loss (Kuang et al. 2022, arXiv 2206.13236)."""

    def __init__(self, encoder_dim: int, predictor_dim: int, vocab_size: int) -> None:
        super().__init__()
        self.am = nn.Linear(encoder_dim, vocab_size)
        self.lm = nn.Linear(predictor_dim, vocab_size)

    def forward(self, encoder_out: torch.Tensor, predictor_out: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, T', D) and (B, U + 1, P) to logits (B, T', V) and (B, U + 1, V)."""
        return self.am(encoder_out), self.lm(predictor_out)


def num_parameters(model: nn.Module) -> int:
    """Number of trainable parameters."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
