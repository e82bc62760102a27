"""Conformer encoder (Gulati et al. 2020, arXiv 2005.08100)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import nn

from asrkit.masking import valid_mask
from asrkit.models.attention import RelativeSelfAttention
from asrkit.models.convolution import ConvolutionModule, DepthwiseConv
from asrkit.models.dropout import Dropout
from asrkit.models.encoder import Encoder
from asrkit.models.subsampling import ConvSubsampling, InputProjection


class FeedForward(nn.Module):
    """Linear, SiLU, linear."""

    def __init__(self, d_model: int, expansion: int) -> None:
        super().__init__()
        self.up = nn.Linear(d_model, expansion * d_model)
        self.down = nn.Linear(expansion * d_model, d_model)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, T, D) to (B, T, D)."""
        result: torch.Tensor = self.down(nn.functional.silu(self.up(x)))
        return result


class ConformerBlock(nn.Module):
    """Half feed-forward, attention, convolution, half feed-forward; pre-norm residuals, final norm.

    Dropout is only at the end of each branch: inside the feed-forward and on the attention weights, it would take a
    fifth of a training step on a CPU.
    """

    def __init__(
        self, d_model: int, ff_expansion: int, dropout: float, attention: RelativeSelfAttention, conv: ConvolutionModule
    ) -> None:
        super().__init__()
        self.norm_ff1 = nn.LayerNorm(d_model)
        self.ff1 = FeedForward(d_model, ff_expansion)
        self.norm_attention = nn.LayerNorm(d_model)
        self.attention = attention
        self.norm_conv = nn.LayerNorm(d_model)
        self.conv = conv
        self.norm_ff2 = nn.LayerNorm(d_model)
        self.ff2 = FeedForward(d_model, ff_expansion)
        self.norm_out = nn.LayerNorm(d_model)
        self.dropout = Dropout(dropout)

    def forward(self, x: torch.Tensor, bias: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        """(B, T, D), (B, 1, 1, T) attention bias, (B, T, 1) mask of real frames to (B, T, D)."""
        x = x + 0.5 * self.dropout(self.ff1(self.norm_ff1(x)))
        x = x + self.dropout(self.attention(self.norm_attention(x), bias))
        x = x + self.dropout(self.conv(self.norm_conv(x), valid))
        x = x + 0.5 * self.dropout(self.ff2(self.norm_ff2(x)))
        result: torch.Tensor = self.norm_out(x)
        return result


class Conformer(Encoder):
    """Subsampling and a stack of conformer blocks.

    Args:
        feature_dim: F.
        num_layers: blocks.
        d_model: D.
        num_heads: attention heads.
        head_dim: per head; 0 for D / num_heads.
        ff_expansion: feed-forward inner width, as a multiple of D.
        conv_expansion: convolution channels, as a multiple of D.
        conv_kernel: frames that the depthwise convolution sees.
        dropout: on the output of each module.
        subsampling: 4 or 8, by two or three convolutions, or 1, by a linear map.
        subsampling_channels: of those convolutions.
        max_relative_distance: see :class:`RelativeSelfAttention`.
        temporal: builds the convolution module's filter from the number of channels; the depthwise
            convolution if None.
    """

    def __init__(
        self,
        feature_dim: int,
        *,
        num_layers: int,
        d_model: int,
        num_heads: int,
        head_dim: int = 0,
        ff_expansion: int = 4,
        conv_expansion: int = 1,
        conv_kernel: int = 15,
        dropout: float = 0.1,
        subsampling: int = 4,
        subsampling_channels: int = 32,
        max_relative_distance: int = 256,
        temporal: Callable[[int], nn.Module] | None = None,
    ) -> None:
        super().__init__()
        if not head_dim and d_model % num_heads:
            raise ValueError(f"d_model {d_model} is not a multiple of num_heads {num_heads}")
        if subsampling not in (1, 4, 8):
            raise ValueError(f"subsampling must be 1, 4 or 8, got {subsampling}")
        self.feature_dim, self.output_dim, self.subsampling = feature_dim, d_model, subsampling
        self.subsample: InputProjection | ConvSubsampling
        if subsampling == 1:
            self.subsample = InputProjection(feature_dim, d_model, dropout)
        else:
            self.subsample = ConvSubsampling(feature_dim, subsampling_channels, d_model, dropout, subsampling)
        channels = conv_expansion * d_model
        make_filter = temporal or partial(DepthwiseConv, kernel=conv_kernel)
        self.blocks = nn.ModuleList(
            ConformerBlock(
                d_model,
                ff_expansion,
                dropout,
                RelativeSelfAttention(d_model, num_heads, head_dim or d_model // num_heads, max_relative_distance),
                ConvolutionModule(d_model, channels, make_filter(channels)),
            )
            for _ in range(num_layers)
        )
        self._initialise(num_layers)

    def _initialise(self, num_layers: int) -> None:
        """Initialises weights so that the signal varies over time.

        With torch's defaults, biases and activation means of the branches add up to a constant: 92 % of six blocks'
        output is the same in every frame, and learning to align is slow. Zero biases and branches scaled by
        (4 L)^-1/2 reduce that share to about one half. The first bias is nonzero: otherwise a frame masked by
        SpecAugment is the zero vector, where each LayerNorm multiplies gradients by 1 / sqrt(eps).
        """
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear | nn.Conv2d) and module.bias is not None:
                nn.init.zeros_(module.bias)
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
            if name.endswith(("ff1.down", "ff2.down", "attention.out", "conv.pointwise_out")):
                with torch.no_grad():
                    module.weight.mul_((4 * num_layers) ** -0.5)
        if isinstance(self.subsample, ConvSubsampling):
            for conv in self.subsample.convs():
                nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
        nn.init.uniform_(self.subsample.proj.bias, -0.5, 0.5)

    def forward(self, x: torch.Tensor, x_lens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Encodes a batch.

        Args:
            x: (B, T, F) features.
            x_lens: (B,).

        Returns:
            encoder_out (B, T', D), zero in the padding, and encoder_lens (B,).
        """
        encoder_out, encoder_lens, _ = self.forward_blocks(x, x_lens, ())
        return encoder_out, encoder_lens

    def forward_blocks(
        self, x: torch.Tensor, x_lens: torch.Tensor, blocks: Sequence[int]
    ) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
        """:meth:`forward`, plus the outputs (B, T', D) of some blocks, zero in the padding.

        Args:
            x: (B, T, F) features.
            x_lens: (B,).
            blocks: numbered from 1.
        """
        x, x_lens = self.subsample(x, x_lens)
        mask = valid_mask(x_lens, x.shape[1])  # (B, T')
        valid = mask.unsqueeze(-1).to(x.dtype)
        bias = torch.zeros(mask.shape, dtype=x.dtype, device=x.device).masked_fill_(~mask, float("-inf"))
        inside: dict[int, torch.Tensor] = {}
        for number, block in enumerate(self.blocks, 1):
            x = block(x, bias[:, None, None, :], valid)
            if number in blocks:
                inside[number] = x * valid
        return x * valid, x_lens, [inside[number] for number in blocks]
