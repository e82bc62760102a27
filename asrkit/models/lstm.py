"""One LSTM layer (Hochreiter and Schmidhuber 1997), for the bi-LSTM encoder, the predictor and language models.

Weights and states are explicit, so that all replacements of a layer have the same interface: :meth:`LstmLayer.run` for
a sequence, :meth:`LstmLayer.step` for one symbol. Gates are in the order input, forget, cell, output.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import nn

LstmState = tuple[torch.Tensor, torch.Tensor]
"""h and c, (B, H) each."""
WeightDropout = Callable[[torch.Tensor], torch.Tensor]
"""Transforms the hidden-to-hidden weights (4 H, H) for one sequence."""


def lstm_cells(gates: torch.Tensor, c: torch.Tensor) -> LstmState:
    """Gate inputs (B, 4 H) and previous cell states (B, H) to the next state."""
    input, forget, cell, output = gates.chunk(4, dim=-1)
    c = forget.sigmoid() * c + input.sigmoid() * cell.tanh()
    return output.sigmoid() * c.tanh(), c


class LstmLayer(nn.Module):
    """A layer in one direction.

    Args:
        input_dim: I.
        hidden_dim: H.
    """

    def __init__(self, input_dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.input_dim, self.hidden_dim = input_dim, hidden_dim
        bound = 1 / math.sqrt(hidden_dim)
        shapes = ((4 * hidden_dim, input_dim), (4 * hidden_dim, hidden_dim), (4 * hidden_dim,), (4 * hidden_dim,))
        self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh = (
            nn.Parameter(torch.empty(shape).uniform_(-bound, bound)) for shape in shapes
        )

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> LstmLayer:
        """Moves the layer, and on CUDA stores its weights in one block of memory, as ``nn.LSTM`` does for cuDNN."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        weights: list[torch.Tensor] = [self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh]
        if all(weight.is_cuda and torch.backends.cudnn.is_acceptable(weight) for weight in weights):
            from torch.backends.cudnn import rnn

            with torch.cuda.device_of(weights[0]), torch.no_grad():
                if torch._use_cudnn_rnn_flatten_weight():
                    sizes = self.input_dim, rnn.get_cudnn_mode("LSTM"), self.hidden_dim, 0, 1
                    torch._cudnn_rnn_flatten_weight(weights, len(weights), *sizes, False, False)
        return self

    def initial_state(self, number: int) -> LstmState:
        """Before any input: (number, H) zeros each."""
        return self.bias_ih.new_zeros(number, self.hidden_dim), self.bias_ih.new_zeros(number, self.hidden_dim)

    def run(
        self, x: torch.Tensor, state: LstmState | None = None, drop: WeightDropout | None = None
    ) -> tuple[torch.Tensor, LstmState]:
        """The layer over a sequence.

        Args:
            x: (T, B, I).
            state: before the first frame; zero if None.
            drop: drops connections; None drops none.

        Returns:
            (T, B, H) and the state after the last frame.
        """
        before = self.initial_state(x.shape[1]) if state is None else state
        h, c = (part[None].to(x.dtype) for part in before)
        weights = [self.weight_ih, self.weight_hh if drop is None else drop(self.weight_hh), self.bias_ih, self.bias_hh]
        out, h, c = torch.lstm(x, (h, c), weights, True, 1, 0.0, self.training, False, False)
        return out, (h[0], c[0])

    def step(self, x: torch.Tensor, state: LstmState) -> tuple[torch.Tensor, LstmState]:
        """One symbol of each of B sequences: (B, I) and the state to (B, H) and the state after it."""
        out, after = self.run(x[None], state)
        return out[0], after
