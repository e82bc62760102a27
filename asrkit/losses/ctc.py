"""The auxiliary CTC loss of a transducer's encoder."""

from __future__ import annotations

import torch
from torch.nn import functional as F


def ctc_loss(
    ctc_logits: torch.Tensor,
    tokens: torch.Tensor,
    encoder_lens: torch.Tensor,
    token_lens: torch.Tensor,
    blank_id: int = 0,
) -> torch.Tensor:
    """CTC loss of each utterance (Graves et al. 2006), in float32.

    Args:
        ctc_logits: (B, T', V).
        tokens: (B, U).
        encoder_lens: (B,).
        token_lens: (B,).
        blank_id: index of blank.

    Returns:
        (B,); 0 for an utterance with more labels than its frames allow.
    """
    log_probs = torch.log_softmax(ctc_logits.float(), dim=-1).transpose(0, 1)
    return F.ctc_loss(log_probs, tokens, encoder_lens, token_lens, blank=blank_id, reduction="none", zero_infinity=True)
