"""The papers' bidirectional LSTM encoder (Saon et al. 2021, arXiv 2103.09935, section 2)."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from asrkit.models.dropout import Dropout
from asrkit.models.encoder import Encoder


class BlstmEncoder(Encoder):
    """A stack of bidirectional LSTM layers at the rate of its input.

    Args:
        input_dim: F.
        num_layers: layers.
        cells: per direction; D is twice that.
        dropout: on each layer's output.
        drop_connect: share of the hidden-to-hidden weights set to zero in a step (Wan et al. 2013).
    """

    subsampling = 1

    def __init__(self, input_dim: int, num_layers: int, cells: int, dropout: float, drop_connect: float) -> None:
        super().__init__()
        self.output_dim = 2 * cells
        widths = [input_dim] + [2 * cells] * (num_layers - 1)
        self.layers = nn.ModuleList(nn.LSTM(width, cells, bidirectional=True) for width in widths)
        self.dropout = Dropout(dropout)
        self.drop_connect = drop_connect

    def forward(self, x: torch.Tensor, x_lens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, T, F) features and (B,) lengths to (B, T, D), zero in the padding, and the same lengths."""
        packed = pack_padded_sequence(x, x_lens.cpu(), batch_first=True, enforce_sorted=False)
        data = packed.data
        for layer in self.layers:
            data = self.dropout(self._run(layer, data, packed.batch_sizes))
        done = PackedSequence(data, packed.batch_sizes, packed.sorted_indices, packed.unsorted_indices)
        return pad_packed_sequence(done, batch_first=True, total_length=x.shape[1])[0], x_lens

    def _run(self, layer: nn.Module, data: torch.Tensor, batch_sizes: torch.Tensor) -> torch.Tensor:
        """One layer over packed (N, F) frames."""
        weights = [
            self._dropped(weight) if name.startswith("weight_hh") else weight
            for name, weight in layer.named_parameters()
        ]
        state = data.new_zeros(2, int(batch_sizes[0]), self.output_dim // 2)
        return torch.lstm(data, batch_sizes, (state, state), weights, True, 1, 0.0, self.training, True)[0]

    def _dropped(self, weight: torch.Tensor) -> torch.Tensor:
        if not (self.training and self.drop_connect):
            return weight
        return nn.functional.dropout(weight, self.drop_connect)
