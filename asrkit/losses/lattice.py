"""Forward and backward variables of the transducer's lattice, in float64.

A node (t, u) has left t frames by blank and emitted u labels. Two arcs leave it: blank to (t + 1, u) and the
next label to (t, u + 1) (Graves 2012, arXiv 1211.3711, section 2.4). All nodes with the same t + u are computed
at once, from those one diagonal before: T + U steps of three vectorised operations, for the forward and the
backward variables of all utterances together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as F

from asrkit.masking import valid_mask

NEG_INF = float("-inf")


@dataclass(frozen=True)
class ArcPosteriors:
    """How probable each arc is, given the labels; float64, zero in the padding."""

    log_likelihood: torch.Tensor
    """(B,) log P(tokens | x); -inf where no alignment is possible."""
    blank: torch.Tensor
    """(B, T, U + 1)."""
    label: torch.Tensor
    """(B, T, U + 1); the last column is zero."""


@torch.no_grad()
def arc_posteriors(
    blank: torch.Tensor, label: torch.Tensor, frame_lens: torch.Tensor, token_lens: torch.Tensor
) -> ArcPosteriors:
    """Forward-backward over the lattices of a batch.

    Args:
        blank: (B, T, U + 1) log probabilities of the blank arcs.
        label: (B, T, U + 1) log probabilities of the label arcs; column U is not read.
        frame_lens: (B,), each from 1 to T.
        token_lens: (B,), each from 0 to U.
    """
    batch, times, width = blank.shape
    blank, label = _closed(blank, label, frame_lens, token_lens)
    # The same lattice read from its end: an arc now leaves the node that it entered.
    backwards = blank[:, :-1].flip(1, 2), label[:, :, :-1].flip(1, 2)
    nodes = _recursion(_skewed([(blank, label), backwards], times + width, width))
    alpha, beta = nodes[:, :batch], nodes[:, batch:].flip(0, 2)  # (T + U + 1, B, U + 1)
    log_likelihood = alpha[-1, :, -1]
    inside = valid_mask(frame_lens, times)[:, :, None] & valid_mask(token_lens + 1, width)[:, None, :]
    alpha = _unskew(alpha, times + 1) - log_likelihood[:, None, None]  # (B, T + 1, U + 1)
    beta = _unskew(beta, times + 1)
    by_blank = (alpha[:, :-1] + blank[:, :-1]).add_(beta[:, 1:])
    by_label = alpha[:, :-1].add_(label[:, :-1])
    by_label[:, :, :-1] += beta[:, :-1, 1:]
    # NaN stands where nothing is possible.
    posteriors = [arcs.exp_().masked_fill_(~inside, 0.0).nan_to_num_(nan=0.0) for arcs in (by_blank, by_label)]
    return ArcPosteriors(log_likelihood, *posteriors)


@torch.no_grad()
def log_likelihood(
    blank: torch.Tensor, label: torch.Tensor, frame_lens: torch.Tensor, token_lens: torch.Tensor
) -> torch.Tensor:
    """The (B,) log-likelihoods of :func:`arc_posteriors` alone, in half of its time."""
    _, times, width = blank.shape
    closed = _closed(blank, label, frame_lens, token_lens)
    return _recursion(_skewed([closed], times + width, width))[-1, :, -1]


def lattice_loss(
    blank: torch.Tensor, label: torch.Tensor, frame_lens: torch.Tensor, token_lens: torch.Tensor
) -> tuple[torch.Tensor, ArcPosteriors]:
    """Negative log-likelihoods (B,) as a differentiable function of the arcs' log probabilities.

    The gradient is closed form: minus the posterior of each arc. The posteriors are returned as well.
    """
    losses, likelihoods, *posteriors = _LatticeLoss.apply(blank, label, frame_lens, token_lens)
    return losses, ArcPosteriors(likelihoods, *posteriors)


class _LatticeLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, blank: torch.Tensor, label: torch.Tensor, frame_lens: torch.Tensor, token_lens: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        found = arc_posteriors(blank, label, frame_lens, token_lens)
        ctx.save_for_backward(found.blank, found.label)
        ctx.mark_non_differentiable(found.log_likelihood, found.blank, found.label)
        return -found.log_likelihood.to(blank.dtype), found.log_likelihood, found.blank, found.label

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: torch.Tensor, *_: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        blank, label = (-grad[:, None, None] * posterior.to(grad.dtype) for posterior in ctx.saved_tensors)
        return blank, label, None, None


def _closed(
    blank: torch.Tensor, label: torch.Tensor, frame_lens: torch.Tensor, token_lens: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Arcs with one more row of nodes, (B, T + 1, U + 1), -inf where none can be taken.

    From the end of a shorter utterance a path of arcs with probability 1 leads to the end of the longest,
    and no other arc of the padding can be taken: so all utterances begin at (0, 0) and end at (T, U).
    """
    times, labels = blank.shape[1], blank.shape[2] - 1
    t = torch.arange(times + 1, device=blank.device)[None, :, None]
    u = torch.arange(labels + 1, device=blank.device)[None, None, :]
    t_end, u_end = frame_lens[:, None, None], token_lens[:, None, None]
    blank, label = (F.pad(arcs.double(), (0, 0, 0, 1), value=NEG_INF) for arcs in (blank, label))
    blank.masked_fill_((t >= t_end) | (u > u_end), NEG_INF)
    blank.masked_fill_((t >= t_end) & (t < times) & (u == u_end), 0.0)
    label.masked_fill_((t >= t_end) | (u >= u_end), NEG_INF)
    label.masked_fill_((t == times) & (u >= u_end) & (u < labels), 0.0)
    return blank, label


def _skewed(lattices: list[tuple[torch.Tensor, torch.Tensor]], diagonals: int, width: int) -> torch.Tensor:
    """The arcs of several lattices by the diagonal of the node that they leave, ready for the recursion.

    Args:
        lattices: pairs of blank and label arcs, each (B, ..., ...) of at most (T + 1, U + 1) nodes.
        diagonals: D = T + U + 1.
        width: U + 1.

    Returns:
        (2, D, lattices · B, U + 1); entry u of a blank arc stays, that of a label arc is the node it enters.
    """
    batch = lattices[0][0].shape[0]
    rows = len(lattices) * batch
    out = lattices[0][0].new_full((2, diagonals, rows, width), NEG_INF)
    for n, (blank, label) in enumerate(lattices):
        for kind, arcs in ((0, blank), (1, label[:, :, : width - 1])):
            # Node (t, u) is on diagonal t + u: one column further is one diagonal further.
            start = (kind * diagonals * rows + n * batch) * width + kind
            out.as_strided(arcs.shape, (width, rows * width, rows * width + 1), start).copy_(arcs)
    return out


def _recursion(arcs: torch.Tensor) -> torch.Tensor:
    """Log probability of reaching each node from (0, 0).

    Args:
        arcs: (2, D, B, U + 1) from :func:`_skewed`.

    Returns:
        (D, B, U + 1).
    """
    diagonals, batch, width = arcs.shape[1:]
    # A column before the first: what would enter u = 0 by a label.
    nodes = arcs.new_full((diagonals, batch, width + 1), NEG_INF)
    nodes[0, :, 1] = 0.0
    reached, before = nodes[:, :, 1:].unbind(0), nodes[:, :, :-1].unbind(0)
    blank, label = arcs[0].unbind(0), arcs[1].unbind(0)
    by_blank, by_label = (torch.empty_like(blank[0]) for _ in range(2))
    for i in range(diagonals - 1):
        torch.add(reached[i], blank[i], out=by_blank)
        torch.add(before[i], label[i], out=by_label)
        torch.logaddexp(by_blank, by_label, out=reached[i + 1])
    return nodes[:, :, 1:]


def _unskew(x: torch.Tensor, rows: int) -> torch.Tensor:
    """(D, B, U + 1) values by diagonal to a view (B, rows, U + 1) by frame: entry (b, t, u) is x[t + u, b, u]."""
    diagonal, batch, column = x.stride()
    return x.as_strided((x.shape[1], rows, x.shape[2]), (batch, diagonal, diagonal + column), x.storage_offset())
