"""The probability of whole hypotheses, summed over all their alignments.

A beam adds up only the alignments that it kept, so its scores rank hypotheses by an estimate. The few that it ends
with are cheap to score exactly, by the lattice that the training loss sums over (Graves 2012, arXiv 1211.3711,
section 2.4): they share most of their label histories, and the joiner runs once for each distinct one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch.nn import functional as F

from asrkit.decoding.hypothesis import Hypothesis
from asrkit.losses.lattice import log_likelihood

LARGEST = 1 << 24
"""Most lattice nodes of one utterance's hypotheses together: about 50 s of speech with 16 of them, 100 s with 4."""
NODES_AT_ONCE = 1 << 18
JOINT_AT_ONCE = 1 << 18
"""Few enough of either for a processor's cache."""

Emit = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Projections of encoder and predictor that broadcast, (..., J), to log probabilities (..., V)."""
Arcs = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""Blank and label arcs (K, T', U + 1) of an utterance's hypotheses, and their numbers of labels (K,)."""


def lattice_nodes(frames: int, hypotheses: Sequence[Hypothesis]) -> int:
    """Nodes of an utterance's lattices, each padded to the longest."""
    return len(hypotheses) * frames * (max(len(h.tokens) for h in hypotheses) + 1)


def full_sums(
    emit: Emit,
    encoder_proj: torch.Tensor,
    encoder_lens: torch.Tensor,
    predictor_proj: torch.Tensor,
    rows: torch.Tensor,
    tokens: torch.Tensor,
    token_lens: torch.Tensor,
    utterance: torch.Tensor,
) -> torch.Tensor:
    """log P(y | x) of N hypotheses, (N,) in float64.

    Args:
        emit: the joiner.
        encoder_proj: (B, T', J).
        encoder_lens: (B,), at least 1 where there is a hypothesis.
        predictor_proj: (R, J) by label history.
        rows: (N, U + 1) each hypothesis' histories, from the empty one to the whole sequence.
        tokens: (N, U), padded with blanks.
        token_lens: (N,).
        utterance: (N,) whose hypothesis, in ascending order.
    """
    lens = encoder_lens.tolist()
    sums: list[torch.Tensor] = []
    group: list[Arcs] = []
    for b in utterance.unique().tolist():
        own = utterance == b
        width = int(token_lens[own].max()) + 1
        following = F.pad(tokens[own], (0, 1))[:, :width]
        blank, label = _arcs(emit, encoder_proj[b, : lens[b]], predictor_proj, rows[own, :width], following)
        at_once = max(1, NODES_AT_ONCE // blank[0].numel())
        for part in zip(*(x.split(at_once) for x in (blank, label, token_lens[own])), strict=True):
            if group and _padded_nodes([*group, part]) > NODES_AT_ONCE:
                sums.append(_summed(group))
                group = []
            group.append(part)
    return torch.cat([*sums, _summed(group)])


def _arcs(
    emit: Emit, x: torch.Tensor, predictor_proj: torch.Tensor, rows: torch.Tensor, following: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log probabilities of blank and of the label ``following`` (K, W) each history, (K, T', W) both; x is (T', J)."""
    distinct, place = rows.unique(return_inverse=True)
    projection = predictor_proj[distinct]
    found: list[tuple[torch.Tensor, torch.Tensor]] = []
    for frames in x.split(max(1, JOINT_AT_ONCE // projection.numel())):
        log_probs = emit(frames[:, None], projection)  # (t, R, V)
        found.append((log_probs[:, place, 0], log_probs[:, place, following]))
    blank, label = (torch.cat(parts).transpose(0, 1) for parts in zip(*found, strict=True))
    return blank, label


def _padded_nodes(group: list[Arcs]) -> int:
    number = sum(len(blank) for blank, _, _ in group)
    return number * max(blank.shape[1] for blank, _, _ in group) * max(blank.shape[2] for blank, _, _ in group)


def _summed(group: list[Arcs]) -> torch.Tensor:
    times, width = (max(blank.shape[dim] for blank, _, _ in group) for dim in (1, 2))
    blank, label = (
        torch.cat(
            [F.pad(arcs[kind], (0, width - arcs[kind].shape[2], 0, times - arcs[kind].shape[1])) for arcs in group]
        )
        for kind in (0, 1)
    )
    frame_lens = torch.cat([lens.new_full((len(lens),), blank.shape[1]) for blank, _, lens in group])
    return log_likelihood(blank, label, frame_lens, torch.cat([lens for _, _, lens in group]))
