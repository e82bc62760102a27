"""Encoder, predictor, joiner and the heads that only training needs, in one module."""

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
        ctc_head: D to V, for an auxiliary CTC loss.
        simple_joiner: for the pruned loss.
    """

    def __init__(
        self,
        encoder: Encoder,
        predictor: Predictor,
        joiner: Joiner,
        ctc_head: nn.Linear | None = None,
        simple_joiner: SimpleJoiner | None = None,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.predictor = predictor
        self.joiner = joiner
        self.ctc_head = ctc_head
        self.simple_joiner = simple_joiner

    @property
    def vocab_size(self) -> int:
        """V, blank included."""
        return self.joiner.out.out_features


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
    """How many numbers are trained."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
