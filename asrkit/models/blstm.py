"""The papers' bidirectional LSTM encoder (Saon et al. 2021, arXiv 2103.09935, section 2)."""

from __future__ import annotations

import torch
from torch import nn

from asrkit.models.dropout import Dropout
from asrkit.models.encoder import Encoder
from asrkit.models.lstm import LstmLayer


class BlstmLayer(nn.Module):
    """One layer's weights in each direction."""

    def __init__(self, input_dim: int, cells: int) -> None:
        super().__init__()
        self.forth, self.back = LstmLayer(input_dim, cells), LstmLayer(input_dim, cells)


class BlstmEncoder(Encoder):
    """A stack of bidirectional LSTM layers at the rate of its input.

    Args:
        input_dim: F.
        num_layers: layers.
        cells: per direction; D is twice that.
        dropout: on each layer's output.
        drop_connect: share of the hidden-to-hidden weights set to zero per step (Wan et al. 2013).
    """

    subsampling = 1

    def __init__(self, input_dim: int, num_layers: int, cells: int, dropout: float, drop_connect: float) -> None:
        super().__init__()
        self.output_dim = 2 * cells
        widths = [input_dim] + [2 * cells] * (num_layers - 1)
        self.layers = nn.ModuleList(BlstmLayer(width, cells) for width in widths)
        self.dropout = Dropout(dropout)
        self.drop_connect = drop_connect

    def forward(self, x: torch.Tensor, x_lens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, T, F) features and (B,) lengths to (B, T, D), zero in the padding, and the same lengths."""
        frame = torch.arange(x.shape[1], device=x.device)[:, None]
        is_real = frame < x_lens
        # Reverses each utterance but not its padding. Packed sequences do not need this, but bypass the CPU's fused
        # kernels.
        backwards = torch.where(is_real, x_lens - 1 - frame, frame)[..., None]
        x = x.transpose(0, 1)
        for layer in self.layers:
            assert isinstance(layer, BlstmLayer)
            x = self.dropout(self._run(layer, x, backwards))
        return x.transpose(0, 1) * is_real.T[..., None], x_lens

    def _run(self, layer: BlstmLayer, x: torch.Tensor, backwards: torch.Tensor) -> torch.Tensor:
        """One layer, (T, B, F) to (T, B, D)."""
        drop = self._dropped if self.training and self.drop_connect else None
        forth, _ = layer.forth.run(x, drop=drop)
        back, _ = layer.back.run(x.gather(0, backwards.expand_as(x)), drop=drop)
        return torch.cat([forth, back.gather(0, backwards.expand_as(back))], dim=-1)

    def _dropped(self, weight: torch.Tensor) -> torch.Tensor:
        return nn.functional.dropout(weight, self.drop_connect)
