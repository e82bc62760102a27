"""Cross-entropy on the labels of frames, the loss of acoustic models in hybrid recognizers.

The papers on distributed training (Cui et al. 2021, arXiv 2110.11199; Zhang et al. 2021, arXiv 2112.01433) label frames
with the context-dependent states of an HMM system. Here a frame's label is the symbol of an alignment.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

from asrkit.masking import valid_mask
from asrkit.symbols import BLANK_ID

HOLD_S = 0.2
"""A label lasts until the next one, but no longer than this, as silence may follow."""
NO_LABEL = -100
"""Label of frames in the padding."""


def frame_labels(
    tokens: torch.Tensor,
    starts_s: torch.Tensor,
    token_lens: torch.Tensor,
    frame_lens: torch.Tensor,
    frame_shift_s: float,
) -> torch.Tensor:
    """(B, T) labels of frames: blank after the end of a symbol, :data:`NO_LABEL` in the padding.

    Each label has at least one frame: a label that would begin in the frame of the previous one begins one frame later.

    Args:
        tokens: (B, U).
        starts_s: (B, U) seconds, ascending.
        token_lens: (B,).
        frame_lens: (B,); T is the largest.
        frame_shift_s: seconds between frames.
    """
    width = int(frame_lens.max())
    position = torch.arange(tokens.shape[1], device=tokens.device)
    # Half a frame is added, so that the rounding of float32 seconds does not matter.
    first = (starts_s / frame_shift_s + 0.5).floor().long()
    first = (first - position).cummax(dim=1).values + position if tokens.shape[1] else first
    first = first.masked_fill(~valid_mask(token_lens, tokens.shape[1]), torch.iinfo(torch.int64).max)
    frame = torch.arange(width, device=tokens.device).expand(len(tokens), width).contiguous()
    number = torch.searchsorted(first, frame, right=True) - 1  # number of the last label that has begun
    padded = F.pad(tokens, (1, 0), value=BLANK_ID), F.pad(first, (1, 0), value=-width)
    label, begin = (values.gather(1, number + 1) for values in padded)
    held = frame - begin < max(1, round(HOLD_S / frame_shift_s))
    labels = torch.where(held & (number >= 0), label, BLANK_ID)
    return labels.masked_fill(~valid_mask(frame_lens, width), NO_LABEL)


def frame_cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(B,) sums of the cross-entropy over each utterance's frames, in float32, and (B,) counts of wrong frames.

    Args:
        logits: (B, T, V).
        labels: (B, T) from :func:`frame_labels`.
    """
    exact = logits.to(torch.promote_types(logits.dtype, torch.float32))
    losses = F.cross_entropy(exact.movedim(-1, 1), labels, reduction="none", ignore_index=NO_LABEL)
    wrong = (exact.argmax(dim=-1) != labels) & (labels != NO_LABEL)
    return losses.sum(dim=1), wrong.sum(dim=1)
