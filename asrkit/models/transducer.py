"""Encoder, predictor, joiner and CTC head in one module."""

from __future__ import annotations

import torch
from torch import nn

from asrkit.models.conformer import Conformer
from asrkit.models.joiner import Joiner
from asrkit.models.predictor import LstmPredictor


class Transducer(nn.Module):
    """RNN transducer (Graves 2012, arXiv 1211.3711) with an auxiliary CTC head on the encoder."""

    def __init__(self, encoder: Conformer, predictor: LstmPredictor, joiner: Joiner, ctc_head: nn.Linear) -> None:
        super().__init__()
        self.encoder = encoder
        self.predictor = predictor
        self.joiner = joiner
        self.ctc_head = ctc_head

    @property
    def vocab_size(self) -> int:
        """V, blank included."""
        return self.joiner.out.out_features

    def forward(
        self, x: torch.Tensor, x_lens: torch.Tensor, tokens: torch.Tensor | None
    ) -> tuple[torch.Tensor | None, torch.Tensor, torch.Tensor]:
        """What the losses need.

        Args:
            x: (B, T, F) features.
            x_lens: (B,).
            tokens: (B, U) labels; None runs the encoder and its CTC head alone.

        Returns:
            logits (B, T', U + 1, V) (None without tokens), CTC logits (B, T', V), encoder_lens (B,).
        """
        encoder_out, encoder_lens = self.encoder(x, x_lens)
        logits = None if tokens is None else self.joiner(encoder_out, self.predictor(tokens))
        return logits, self.ctc_head(encoder_out), encoder_lens


def num_parameters(model: nn.Module) -> int:
    """How many numbers are trained."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
