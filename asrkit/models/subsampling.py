"""From features to the encoder's width, with or without subsampling by 4 or 8."""

from __future__ import annotations

import torch
from torch import nn

from asrkit.masking import valid_mask
from asrkit.models.dropout import Dropout


class InputProjection(nn.Module):
    """A linear map at the rate of the input, for features that are already stacked."""

    subsampling = 1

    def __init__(self, feature_dim: int, output_dim: int, dropout: float) -> None:
        super().__init__()
        self.proj = nn.Linear(feature_dim, output_dim)
        self.dropout = Dropout(dropout)

    def forward(self, x: torch.Tensor, x_lens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, T, F) and (B,) to (B, T, D) and the same lengths."""
        return self.dropout(self.proj(x)), x_lens


class ConvSubsampling(nn.Module):
    """3×3 convolutions of stride 2, then a projection of the remaining channels × bins to D.

    The channels are few and channels-last: with D channels, the second convolution would take longer than the rest of a
    small encoder.

    Args:
        feature_dim: F.
        channels: of the convolutions.
        output_dim: D.
        dropout: on the output.
        subsampling: frames merged into one, 4 by two convolutions or 8 by three. (Those of Rekesh et al. 2023, arXiv
            2305.05084, are separable, which is faster with many channels.)
    """

    def __init__(self, feature_dim: int, channels: int, output_dim: int, dropout: float, subsampling: int = 4) -> None:
        super().__init__()
        self.subsampling = subsampling
        bins = feature_dim
        for number in range(1, subsampling.bit_length()):
            inputs = 1 if number == 1 else channels
            self.add_module(f"conv{number}", nn.Conv2d(inputs, channels, kernel_size=3, stride=2, padding=1))
            bins = (bins + 1) // 2
        # One input channel leaves channels-last strides ambiguous. Without this, DistributedDataParallel warns that the
        # gradient's strides differ.
        first = self.convs()[0]
        first.weight.data = first.weight.data.as_strided((channels, 1, 3, 3), (9, 1, 3, 1))
        self.proj = nn.Linear(channels * bins, output_dim)
        self.dropout = Dropout(dropout)

    def convs(self) -> list[nn.Conv2d]:
        """The convolutions in order."""
        return [module for module in self.children() if isinstance(module, nn.Conv2d)]

    def forward(self, x: torch.Tensor, x_lens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Subsamples a batch; padding is zeroed before each convolution, so that it has no effect.

        Args:
            x: (B, T, F).
            x_lens: (B,).

        Returns:
            (B, T', D) with T' = ceil(T / subsampling), and (B,) lengths.
        """
        x = x.unsqueeze(-1).permute(0, 3, 1, 2)  # (B, 1, T, F), with the strides of channels-last
        for conv in self.convs():
            x = x * valid_mask(x_lens, x.shape[2])[:, None, :, None].to(x.dtype)
            x = torch.relu(conv(x))
            x_lens = (x_lens + 1) // 2
        x = x.permute(0, 2, 3, 1).flatten(2)  # (B, T', F'·C) in the order of memory, so that no gradient is copied
        return self.dropout(self.proj(x)), x_lens
