"""Consistency of two masked views of an utterance: CR-CTC.

Yao et al. 2025, "CR-CTC: Consistency regularization on CTC for improved speech recognition", ICLR, arXiv 2410.05101,
section 3. The CTC posteriors of each view are pulled towards those of the other, frame by frame.
"""

from __future__ import annotations

import torch

from asrkit.masking import valid_mask


def consistency_loss(ctc_logits: torch.Tensor, encoder_lens: torch.Tensor) -> torch.Tensor:
    """½ Σ_t KL(sg(z_b,t) ‖ z_a,t) + KL(sg(z_a,t) ‖ z_b,t) of each utterance, in float32 (ibid., eq. 4).

    sg stops the gradient: in each term, only one view learns from the other.

    Args:
        ctc_logits: (2 B, T', V), the first view of all utterances, then the second.
        encoder_lens: (2 B,), the same for both views.

    Returns:
        (B,).

    Raises:
        ValueError: an odd number of rows, or views of different lengths.
    """
    if len(ctc_logits) % 2:
        raise ValueError(f"{len(ctc_logits)} rows are no two views")
    number = len(ctc_logits) // 2
    if not torch.equal(encoder_lens[:number], encoder_lens[number:]):
        raise ValueError("the two views of an utterance differ in length")
    log_probs = torch.log_softmax(ctc_logits.float(), dim=-1)
    first, second = log_probs[:number], log_probs[number:]
    divergence = torch.zeros_like(first[..., 0])  # (B, T')
    for learner, teacher in ((first, second.detach()), (second, first.detach())):
        divergence = divergence + (teacher.exp() * (teacher - learner)).sum(-1)
    return 0.5 * (divergence * valid_mask(encoder_lens[:number], divergence.shape[1])).sum(1)
