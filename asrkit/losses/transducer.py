"""The transducer loss over the full lattice, and the CTC loss that helps it."""

from __future__ import annotations

import torch
from torch.nn import functional as F
from torchaudio.functional import rnnt_loss

BLANK_ID = 0


def transducer_loss(
    logits: torch.Tensor, tokens: torch.Tensor, encoder_lens: torch.Tensor, token_lens: torch.Tensor
) -> torch.Tensor:
    """-log P(tokens | x) of each utterance (Graves 2012, arXiv 1211.3711, eq. 18), in float32.

    Args:
        logits: (B, T', U + 1, V).
        tokens: (B, U).
        encoder_lens: (B,).
        token_lens: (B,).

    Returns:
        (B,).
    """
    # The lattice must be exactly as wide as its longest members.
    time, labels = int(encoder_lens.max()), int(token_lens.max())
    return rnnt_loss(
        logits[:, :time, : labels + 1].float().contiguous(),
        tokens[:, :labels].int().contiguous(),
        encoder_lens.int(),
        token_lens.int(),
        blank=BLANK_ID,
        reduction="none",
    )


def ctc_loss(
    ctc_logits: torch.Tensor, tokens: torch.Tensor, encoder_lens: torch.Tensor, token_lens: torch.Tensor
) -> torch.Tensor:
    """CTC loss of each utterance (Graves et al. 2006).

    Args:
        ctc_logits: (B, T', V).
        tokens: (B, U).
        encoder_lens: (B,).
        token_lens: (B,).

    Returns:
        (B,); 0 for an utterance with more labels than frames can carry.
    """
    log_probs = torch.log_softmax(ctc_logits.float(), dim=-1).transpose(0, 1)
    return F.ctc_loss(log_probs, tokens, encoder_lens, token_lens, blank=BLANK_ID, reduction="none", zero_infinity=True)
