"""The pruned transducer loss through k2 (Kuang et al. 2022, arXiv 2206.13236), if k2 is installed.

These functions mirror those of :mod:`asrkit.losses.pruned_transducer` and need only torch and k2.
"""

from __future__ import annotations

import torch


def k2_pruned_losses(
    am: torch.Tensor,
    lm: torch.Tensor,
    tokens: torch.Tensor,
    encoder_lens: torch.Tensor,
    token_lens: torch.Tensor,
    *,
    prune_range: int,
    blank_id: int = 0,
    am_only_scale: float = 0.0,
    lm_only_scale: float = 0.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The trivial joiner's losses (B,) and the bounds (B, T', S) that k2 derives from them.

    Args:
        am: (B, T', V) logits from the encoder.
        lm: (B, U + 1, V) logits from the predictor.
        tokens: (B, U).
        encoder_lens: (B,).
        token_lens: (B,).
        prune_range: S.
        blank_id: index of blank.
        am_only_scale: weight of the encoder-only part.
        lm_only_scale: weight of the predictor-only part.

    Raises:
        ImportError: k2 is not installed.
    """
    import k2

    boundary = _boundary(tokens, encoder_lens, token_lens)
    losses, (px_grad, py_grad) = k2.rnnt_loss_smoothed(
        lm=lm.float(),
        am=am.float(),
        symbols=tokens,
        termination_symbol=blank_id,
        lm_only_scale=lm_only_scale,
        am_only_scale=am_only_scale,
        boundary=boundary,
        reduction="none",
        return_grad=True,
    )
    return losses, k2.get_rnnt_prune_ranges(px_grad, py_grad, boundary, prune_range)


def k2_pruned_transducer_loss(
    logits: torch.Tensor,
    tokens: torch.Tensor,
    bounds: torch.Tensor,
    encoder_lens: torch.Tensor,
    token_lens: torch.Tensor,
    *,
    blank_id: int = 0,
) -> torch.Tensor:
    """The losses (B,) of logits (B, T', S, V) within bounds (B, T', S).

    Raises:
        ImportError: k2 is not installed.
    """
    import k2

    result: torch.Tensor = k2.rnnt_loss_pruned(
        logits=logits.float(),
        symbols=tokens,
        ranges=bounds,
        termination_symbol=blank_id,
        boundary=_boundary(tokens, encoder_lens, token_lens),
        reduction="none",
    )
    return result


def _boundary(tokens: torch.Tensor, encoder_lens: torch.Tensor, token_lens: torch.Tensor) -> torch.Tensor:
    """k2's (B, 4): first label, first frame, labels, frames."""
    boundary = torch.zeros(tokens.shape[0], 4, dtype=torch.int64, device=tokens.device)
    boundary[:, 2], boundary[:, 3] = token_lens, encoder_lens
    return boundary
