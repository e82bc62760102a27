"""Prediction network of the transducer."""

from __future__ import annotations

import torch
from torch import nn

from asrkit.models.dropout import Dropout

BLANK_ID = 0
State = tuple[torch.Tensor, torch.Tensor]
"""LSTM state h, c; each (layers, N, hidden)."""


class LstmPredictor(nn.Module):
    """Embedding and LSTM over the labels so far.

    The history begins with blank: loss and search both feed it as the first input, and nothing else
    defines the initial context.
    """

    def __init__(
        self,
        vocab_size: int,
        embedding_dim: int,
        hidden_dim: int,
        num_layers: int,
        dropout: float,
        embedding_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.output_dim = hidden_dim
        self.embedding = nn.Embedding(vocab_size, embedding_dim)
        self.lstm = nn.LSTM(embedding_dim, hidden_dim, num_layers, batch_first=True)
        self.dropout = Dropout(dropout)
        self.embedding_dropout = Dropout(embedding_dropout)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Outputs for every prefix of the labels.

        Args:
            tokens: (B, U).

        Returns:
            (B, U + 1, hidden); entry u has seen the first u labels.
        """
        history = nn.functional.pad(tokens, (1, 0), value=BLANK_ID)
        out, _ = self.lstm(self.embedding_dropout(self.embedding(history)))
        return self.dropout(out)

    def initial_state(self, batch: int) -> State:
        """The state before any input, for ``batch`` hypotheses."""
        weight = self.embedding.weight
        shape = (self.lstm.num_layers, batch, self.lstm.hidden_size)
        return weight.new_zeros(shape), weight.new_zeros(shape)

    def step(self, tokens: torch.Tensor, state: State) -> tuple[torch.Tensor, State]:
        """Extends N histories by one label each (blank for the first step).

        Args:
            tokens: (N,).
            state: of the N histories.

        Returns:
            (N, hidden) outputs and the new state.
        """
        out, state = self.lstm(self.embedding(tokens).unsqueeze(1), state)
        return out.squeeze(1), state
