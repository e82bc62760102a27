"""Batched greedy search."""

from __future__ import annotations

import torch

from asrkit.decoding.hypothesis import Hypothesis
from asrkit.models.transducer import Transducer

BLANK_ID = 0


@torch.inference_mode()
def greedy_search(
    model: Transducer,
    encoder_out: torch.Tensor,
    encoder_lens: torch.Tensor,
    *,
    frame_shift_s: float,
    max_symbols: int = 5,
    blank_penalty: float = 0.0,
) -> list[Hypothesis]:
    """The best arc at every point of the lattice, all utterances in step, each at its own frame.

    Ends after at most T'·(max_symbols + 1) steps.

    Args:
        model: the transducer.
        encoder_out: (B, T', D).
        encoder_lens: (B,).
        frame_shift_s: seconds between encoder frames.
        max_symbols: most labels at one frame.
        blank_penalty: subtracted from blank's logit.

    Returns:
        One hypothesis an utterance; its score is the log probability of the alignment found.
    """
    batch, device = encoder_out.shape[0], encoder_out.device
    encoder_proj = model.joiner.encoder_proj(encoder_out)
    out, state = model.predictor.step(
        torch.full((batch,), BLANK_ID, device=device), model.predictor.initial_state(batch)
    )
    predictor_proj = model.joiner.predictor_proj(out)
    frame = torch.zeros(batch, dtype=torch.int64, device=device)
    symbols = torch.zeros_like(frame)
    scores = [0.0] * batch
    labels: list[list[tuple[int, int, float]]] = [[] for _ in range(batch)]  # (label, frame, log probability)
    while True:
        live = (frame < encoder_lens).nonzero().squeeze(1)
        if live.numel() == 0:
            break
        log_probs = model.joiner.log_probs(encoder_proj[live, frame[live]], predictor_proj[live], blank_penalty)
        best, token = log_probs.max(dim=-1)
        for b, k, t, p in zip(live.tolist(), token.tolist(), frame[live].tolist(), best.tolist(), strict=True):
            scores[b] += p
            if k != BLANK_ID:
                labels[b].append((k, t, p))
        is_label = token != BLANK_ID
        emitted = live[is_label]
        symbols[live] = torch.where(is_label, symbols[live] + 1, 0)
        moves = ~is_label | (symbols[live] >= max_symbols)
        frame[live[moves]] += 1
        symbols[live[moves]] = 0
        if emitted.numel():
            out, after = model.predictor.step(token[is_label], tuple(part[emitted] for part in state))
            predictor_proj[emitted] = model.joiner.predictor_proj(out)
            for part, new in zip(state, after, strict=True):
                part[emitted] = new
    return [
        Hypothesis(
            tokens=[k for k, _, _ in found],
            score=score,
            token_times=[t * frame_shift_s for _, t, _ in found],
            token_scores=[p for _, _, p in found],
            parts={"am": score},
        )
        for found, score in zip(labels, scores, strict=True)
    ]
