"""The most likely alignment of a transducer: the path through its lattice with the largest probability.

A maximum (Viterbi) replaces the sum in the recursion of Graves 2012 (arXiv 1211.3711, eq. 16). A frame's nodes depend
on those of the previous frame and, through the labels, on each other: with S_t(u) the log probability of emitting the
first u labels at frame t,

    δ_t(u) = max over v ≤ u of  δ_{t−1}(v) + blank_{t−1}(v) + S_t(u) − S_t(v),

so one cumulative maximum replaces the loop over labels.
"""

from __future__ import annotations

import torch


@torch.no_grad()
def best_path(
    blank: torch.Tensor, label: torch.Tensor, frame_lens: torch.Tensor, token_lens: torch.Tensor
) -> torch.Tensor:
    """The frame at which each label is emitted on the most likely path, (B, U); 0 in the padding.

    Args:
        blank: (B, T, U + 1) log probabilities of the blank arcs.
        label: (B, T, U + 1) log probabilities of the label arcs; column U is not read.
        frame_lens: (B,), each from 1 to T.
        token_lens: (B,), each from 0 to U.
    """
    batch, times, width = blank.shape
    blank, label = blank.double(), label.double()
    first = torch.full_like(blank[:, 0], -torch.inf)
    first[:, 0] = 0.0
    backpointers = []  # (B, U + 1) for each frame: the number of labels emitted before it
    scores = first
    for t in range(times):
        emitted = torch.cat([torch.zeros_like(blank[:, t, :1]), label[:, t, :-1].cumsum(dim=1)], dim=1)
        best, source = (scores - emitted).cummax(dim=1)
        backpointers.append(source)
        scores = best + emitted + blank[:, t]
    frames = torch.zeros(batch, width - 1, dtype=torch.int64, device=blank.device)
    position = torch.arange(width - 1, device=blank.device)
    count = token_lens.clone()
    for t in range(times - 1, -1, -1):
        previous = torch.where(t < frame_lens, backpointers[t].gather(1, count[:, None]).squeeze(1), count)
        frames = torch.where((position >= previous[:, None]) & (position < count[:, None]), t, frames)
        count = previous
    return frames
