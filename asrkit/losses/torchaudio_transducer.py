"""torchaudio's transducer loss, for comparison."""

from __future__ import annotations

from typing import cast

import torch


def torchaudio_transducer_loss(
    logits: torch.Tensor, tokens: torch.Tensor, encoder_lens: torch.Tensor, token_lens: torch.Tensor
) -> torch.Tensor:
    """The sum of the losses of a batch.

    Args:
        logits: (B, T', U + 1, V) with T' the longest length; more padding is not accepted.
        tokens: (B, U).
        encoder_lens: (B,).
        token_lens: (B,).
    """
    from torchaudio.functional import rnnt_loss

    lens = encoder_lens.int(), token_lens.int()
    return cast(torch.Tensor, rnnt_loss(logits.float().contiguous(), tokens.int(), *lens, blank=0, reduction="sum"))
