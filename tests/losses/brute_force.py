"""The transducer loss as its definition says it: a sum over all alignments."""

from __future__ import annotations

import itertools
import math

import torch


def brute_force(log_probs: torch.Tensor, labels: list[int], blank_id: int = 0) -> float:
    """-log of the sum over all alignments of (T, U + 1, V) log probabilities."""
    time, total = log_probs.shape[0], 0.0
    # An alignment chooses how many labels each frame emits before its blank.
    for per_frame in itertools.product(range(len(labels) + 1), repeat=time):
        if sum(per_frame) != len(labels):
            continue
        u, score = 0, 0.0
        for t, count in enumerate(per_frame):
            for _ in range(count):
                score += log_probs[t, u, labels[u]].item()
                u += 1
            score += log_probs[t, u, blank_id].item()
        total += math.exp(score)
    return -math.log(total)


def random_lattices(
    shape: tuple[int, int, int, int], seed: int = 0, dtype: torch.dtype = torch.float32
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits (B, T, U + 1, V), tokens, frame lengths and label lengths; the first utterance has the full size."""
    batch, times, labels, symbols = shape
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(batch, times, labels + 1, symbols, generator=generator, dtype=dtype) * 2
    tokens = torch.randint(1, symbols, (batch, labels), generator=generator)
    frame_lens = torch.randint(1, times + 1, (batch,), generator=generator)
    token_lens = torch.randint(0, labels + 1, (batch,), generator=generator)
    frame_lens[0], token_lens[0] = times, labels
    return logits, tokens, frame_lens, token_lens


def pack(logits: torch.Tensor, frame_lens: torch.Tensor, token_lens: torch.Tensor) -> torch.Tensor:
    """Padded (B, T, U + 1, V) to packed (N, V)."""
    lens = zip(frame_lens.tolist(), token_lens.tolist(), strict=True)
    return torch.cat([logits[b, :t, : u + 1].flatten(0, 1) for b, (t, u) in enumerate(lens)])
