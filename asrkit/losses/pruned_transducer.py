"""The pruned transducer loss (Kuang et al. 2022, arXiv 2206.13236).

The logits of a trivial joiner are the sum of an encoder part and a predictor part. Its normalizer is one matrix
product, so its full lattice is cheap (section 3.1). Its arc posteriors select the labels at each frame (section 3.2)
for which the real joiner is computed.
"""

from __future__ import annotations

import torch

from asrkit.losses.lattice import ArcPosteriors, lattice_loss


def simple_transducer_loss(
    am: torch.Tensor,
    lm: torch.Tensor,
    tokens: torch.Tensor,
    encoder_lens: torch.Tensor,
    token_lens: torch.Tensor,
    *,
    blank_id: int = 0,
    am_only_scale: float = 0.0,
    lm_only_scale: float = 0.0,
) -> tuple[torch.Tensor, ArcPosteriors]:
    """The loss of the trivial joiner, smoothed by parts that see only the encoder or only the predictor.

    Run it without autocast, which would round the normalizers. With ``am_only_scale``, the losses depend on the
    complete batch including padding, as in k2: the predictor's mean distribution is computed over it.

    Smoothing (section 3.3) interpolates the log probabilities of the arcs with those of the predictor alone and
    of the encoder alone (with the predictor's mean distribution), so that neither ignores the other.

    Args:
        am: (B, T', V) logits from the encoder.
        lm: (B, U + 1, V) logits from the predictor.
        tokens: (B, U).
        encoder_lens: (B,).
        token_lens: (B,).
        blank_id: index of blank.
        am_only_scale: weight of the encoder-only part.
        lm_only_scale: weight of the predictor-only part.

    Returns:
        (B,) losses, and the posteriors of the arcs for :func:`pruning_bounds`.
    """
    am, lm = (x.to(torch.promote_types(x.dtype, torch.float32)) for x in (am, lm))
    am_peak, lm_peak = am.detach().amax(-1, keepdim=True), lm.detach().amax(-1, keepdim=True)
    am_exp, lm_exp = (am - am_peak).exp(), (lm - lm_peak).exp()  # (B, T', V), (B, U + 1, V)
    tiny = torch.finfo(am.dtype).tiny
    normalizer = (am_exp @ lm_exp.transpose(1, 2) + tiny).log() + am_peak + lm_peak.transpose(1, 2)  # (B, T', U + 1)
    padded = torch.nn.functional.pad(tokens, (0, lm.shape[1] - tokens.shape[1]))  # (B, U + 1)

    am_label = am.gather(2, padded[:, None, :].expand(-1, am.shape[1], -1))  # (B, T', U + 1)
    lm_label = lm.gather(2, padded.unsqueeze(2)).transpose(1, 2)  # (B, 1, U + 1)
    am_blank, lm_blank = am[:, :, blank_id].unsqueeze(2), lm[:, :, blank_id].unsqueeze(1)
    joint_scale = 1 - am_only_scale - lm_only_scale
    blank = joint_scale * (am_blank + lm_blank - normalizer)
    label = joint_scale * (am_label + lm_label - normalizer)
    if lm_only_scale:
        lm_normalizer = (lm_exp.sum(2).log() + lm_peak.squeeze(2)).unsqueeze(1)  # (B, 1, U + 1)
        blank = blank + lm_only_scale * (lm_blank - lm_normalizer)
        label = label + lm_only_scale * (lm_label - lm_normalizer)
    if am_only_scale:
        unigram = (lm_exp / lm_exp.sum(2, keepdim=True)).mean((0, 1)) + tiny  # (V,)
        am_normalizer = (am_exp @ unigram).log().unsqueeze(2) + am_peak  # (B, T', 1)
        blank = blank + am_only_scale * (am_blank + unigram[blank_id].log() - am_normalizer)
        label = label + am_only_scale * (am_label + unigram[padded].log().unsqueeze(1) - am_normalizer)
    return lattice_loss(blank, label, encoder_lens, token_lens)


@torch.no_grad()
def pruning_bounds(
    posteriors: ArcPosteriors, encoder_lens: torch.Tensor, token_lens: torch.Tensor, prune_range: int
) -> torch.Tensor:
    """The label positions that each frame keeps.

    Args:
        posteriors: of the trivial joiner's arcs.
        encoder_lens: (B,).
        token_lens: (B,).
        prune_range: S, positions kept per frame; at least 2 if there are labels.

    Returns:
        (B, T', S) int64, consecutive positions u; the first one never decreases over time and rises by at most
        S - 1 per frame, so that a path exists (section 3.2.1). S is at most U + 1.

    Raises:
        ValueError: a range that admits no path.
    """
    width = posteriors.blank.shape[2]
    size = min(prune_range, width)
    if size < min(2, width):
        raise ValueError(f"prune_range must be 2 at least, got {prune_range}")
    # A window keeps the paths that leave the frame inside it, minus those that enter it from below.
    kept = posteriors.blank.unfold(2, size, 1).sum(-1)  # (B, T', width - S + 1)
    kept[:, :, 1:] -= posteriors.label[:, :, : width - size]
    first = kept.argmax(2)  # (B, T')
    frames = torch.arange(first.shape[1], device=first.device)
    last_window = (token_lens + 1 - size).clamp_min(0)[:, None]  # (B, 1) ends with the last label
    first = torch.where(frames[None, :] < encoder_lens[:, None] - 1, first.minimum(last_window), last_window)
    first = _running_minimum(first)
    # first[t + 1] - first[t] <= S - 1 means that (S - 1) t - first[t] never decreases.
    first = (size - 1) * frames - _running_minimum((size - 1) * frames - first).clamp_min(0)
    return first.unsqueeze(2) + torch.arange(size, device=first.device)


def _running_minimum(x: torch.Tensor) -> torch.Tensor:
    """The largest non-decreasing sequence at most x (B, T)."""
    return x.flip(1).cummin(1).values.flip(1)


def prune(
    encoder_out: torch.Tensor, predictor_out: torch.Tensor, bounds: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, T', D), (B, U + 1, P) and bounds (B, T', S) to a joiner's inputs (B, T', 1, D) and (B, T', S, P)."""
    batch, times, size = bounds.shape
    index = bounds.reshape(batch, -1, 1).expand(-1, -1, predictor_out.shape[2])
    kept = predictor_out.gather(1, index).view(batch, times, size, -1)
    return encoder_out.unsqueeze(2), kept


def pruned_transducer_loss(
    logits: torch.Tensor,
    tokens: torch.Tensor,
    bounds: torch.Tensor,
    encoder_lens: torch.Tensor,
    token_lens: torch.Tensor,
    *,
    blank_id: int = 0,
) -> torch.Tensor:
    """The loss over the kept part of the lattice (section 3.2).

    Args:
        logits: (B, T', S, V) of the real joiner.
        tokens: (B, U).
        bounds: (B, T', S) from :func:`pruning_bounds`.
        encoder_lens: (B,).
        token_lens: (B,).
        blank_id: index of blank.

    Returns:
        (B,); at least the full loss, and equal to it if the bounds hold every label.
    """
    log_probs = torch.log_softmax(logits.to(torch.promote_types(logits.dtype, torch.float32)), dim=-1)
    padded = torch.nn.functional.pad(tokens, (0, 1))  # (B, U + 1)
    labels = padded.gather(1, bounds.flatten(1)).view_as(bounds).unsqueeze(3)  # (B, T', S, 1)
    blank, label = log_probs[..., blank_id], log_probs.gather(3, labels).squeeze(3)
    return lattice_loss(blank, label, encoder_lens, token_lens, bounds[:, :, 0])[0]
