"""Prediction networks of the transducer: functions of the labels so far.

The initial context of loss, search and export is defined here: a history begins with ``context_size`` blanks. A state
is a tuple of tensors (N, ...), one row per history, so that a search can select and stack rows.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import nn
from torch.nn import functional as F

from asrkit.models.dropout import Dropout
from asrkit.models.lstm import LstmLayer
from asrkit.symbols import BLANK_ID

GROUP = 4
"""Channels per group of the stateless predictor's convolution."""
State = tuple[torch.Tensor, ...]
"""State of N histories, each tensor (N, ...)."""


class LstmPredictor(nn.Module):
    """Embedding and LSTM over all labels so far (Graves 2012, arXiv 1211.3711)."""

    context_size = 1

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
        widths = [embedding_dim] + [hidden_dim] * (num_layers - 1)
        self.layers = nn.ModuleList(LstmLayer(width, hidden_dim) for width in widths)
        self.dropout = Dropout(dropout)
        self.embedding_dropout = Dropout(embedding_dropout)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Outputs for every prefix of the labels.

        Args:
            tokens: (B, U).

        Returns:
            (B, U + 1, hidden); entry u has seen the first u labels.
        """
        history = F.pad(tokens, (1, 0), value=BLANK_ID)
        x = self.embedding_dropout(self.embedding(history)).transpose(0, 1)  # (U + 1, B, embedding)
        for layer in self._lstms():
            x, _ = layer.run(x)
        result: torch.Tensor = self.dropout(x.transpose(0, 1))
        return result

    def initial_state(self, number: int) -> State:
        """The state of ``number`` histories before any input: h and c of each layer, (N, hidden)."""
        return tuple(part for layer in self._lstms() for part in layer.initial_state(number))

    def step(self, tokens: torch.Tensor, state: State) -> tuple[torch.Tensor, State]:
        """Extends N histories by one label each (blank for the first step).

        Args:
            tokens: (N,).
            state: of the N histories.

        Returns:
            (N, hidden) outputs and the new state.
        """
        x, after = self.embedding(tokens), []
        for n, layer in enumerate(self._lstms()):
            x, (h, c) = layer.step(x, (state[2 * n], state[2 * n + 1]))
            after += [h, c]
        return x, tuple(after)

    def _lstms(self) -> list[LstmLayer]:
        return cast(list[LstmLayer], list(self.layers))


class StatelessPredictor(nn.Module):
    """Embedding and a grouped convolution over the last ``context_size`` labels.

    The limited context of Ghodsi et al. 2020 ("RNN-Transducer with stateless prediction network", ICASSP), in the
    form that other runtimes support: convolution without bias, groups of four channels, ReLU.
    """

    def __init__(
        self, vocab_size: int, embedding_dim: int, context_size: int, dropout: float, embedding_dropout: float = 0.0
    ) -> None:
        super().__init__()
        if embedding_dim % GROUP:
            raise ValueError(f"embedding_dim must be a multiple of {GROUP}, got {embedding_dim}")
        self.output_dim, self.context_size = embedding_dim, context_size
        self.embedding = nn.Embedding(vocab_size, embedding_dim)
        self.conv = nn.Conv1d(embedding_dim, embedding_dim, context_size, groups=embedding_dim // GROUP, bias=False)
        self.dropout = Dropout(dropout)
        self.embedding_dropout = Dropout(embedding_dropout)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """(B, U) to (B, U + 1, embedding); entry u has seen the last labels before it."""
        history = F.pad(tokens, (self.context_size, 0), value=BLANK_ID)
        x = self.embedding_dropout(self.embedding(history))
        result: torch.Tensor = self.dropout(F.relu(self.conv(x.transpose(1, 2)).transpose(1, 2)))
        return result

    def initial_state(self, number: int) -> State:
        """The last labels before the first input, all blank: (N, context - 1)."""
        shape = (number, self.context_size - 1)
        return (torch.full(shape, BLANK_ID, dtype=torch.int64, device=self.embedding.weight.device),)

    def step(self, tokens: torch.Tensor, state: State) -> tuple[torch.Tensor, State]:
        """Extends N histories by one label (N,) each: (N, embedding) outputs and the new state."""
        history = torch.cat([state[0], tokens[:, None]], dim=1)
        # At one position the convolution is a small product per group, which is faster than convolution routines.
        x = self.embedding(history).unflatten(2, (-1, GROUP)).permute(2, 0, 1, 3).flatten(2)  # (groups, N, context · 4)
        weight = self.conv.weight.unflatten(0, (-1, GROUP)).permute(0, 3, 2, 1).flatten(1, 2)
        return F.relu(torch.bmm(x, weight).transpose(0, 1).flatten(1)), (history[:, 1:],)


Predictor = LstmPredictor | StatelessPredictor
