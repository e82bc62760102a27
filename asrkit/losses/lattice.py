"""Forward and backward variables of the transducer's lattice, in float64.

At node (t, u), t frames have been left by blank and u labels emitted. Two arcs leave it: blank to (t + 1, u) and the
next label to (t, u + 1) (Graves 2012, arXiv 1211.3711, section 2.4). All nodes with the same t + u are computed
at once, from the previous diagonal: T + U steps of three vectorised operations for all utterances together.
The arcs are stored by diagonal, so that each step and later operations read them in order.
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
    """Posterior of each arc, given the labels; float64, zero in the padding."""

    log_likelihood: torch.Tensor
    """(B,) log P(tokens | x); -inf if no alignment is possible."""
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
    _, times, width = blank.shape
    arcs = _skewed(*_closed(blank, label, frame_lens, token_lens))
    alpha, beta = _recursion(arcs[..., :width]), _backward_recursion(arcs)
    log_likelihood = alpha[-1, :, -1].clone()
    alpha -= log_likelihood[:, None]
    outside = ~(valid_mask(frame_lens, times)[:, :, None] & valid_mask(token_lens + 1, width)[:, None, :])
    posteriors = []
    for kind in (0, 1):
        # In column u: the blank arc that leaves u, and the label arc that leaves u - 1 and enters u.
        leaves = alpha[:-1, :, 1:] if kind == 0 else alpha[:-1, :, :-1]
        posterior = arcs[kind, :-1, :, :width].add_(leaves).add_(beta[1:, :, :width]).exp_()
        # NaN means that no path is possible.
        posteriors.append(_unskew(posterior, times, kind).masked_fill(outside, 0.0).nan_to_num_(nan=0.0))
    posteriors[1][:, :, -1] = 0.0  # no such arc
    return ArcPosteriors(log_likelihood, *posteriors)


@torch.no_grad()
def log_likelihood(
    blank: torch.Tensor, label: torch.Tensor, frame_lens: torch.Tensor, token_lens: torch.Tensor
) -> torch.Tensor:
    """Only the (B,) log-likelihoods of :func:`arc_posteriors`, in half the time."""
    arcs = _skewed(*_closed(blank, label, frame_lens, token_lens))
    return _recursion(arcs[..., :-1])[-1, :, -1]


@torch.no_grad()
def banded_posteriors(
    blank: torch.Tensor,
    label: torch.Tensor,
    first: torch.Tensor,
    frame_lens: torch.Tensor,
    token_lens: torch.Tensor,
) -> ArcPosteriors:
    """Forward-backward over a band of the lattice: S label positions per frame, (B, T, S) arcs and posteriors.

    As ``first`` never decreases, a diagonal t + u meets the band in at most S nodes, with consecutive u. Each has its
    own slot, u modulo S: blank arcs stay in it, and label arcs lead to the next slot.

    Args:
        blank: (B, T, S) log probabilities of the blank arcs.
        label: (B, T, S) log probabilities of the label arcs.
        first: (B, T) the label position u of each frame's first node; never decreases.
        frame_lens: (B,), each from 1 to T.
        token_lens: (B,).
    """
    batch, times, size = blank.shape
    s = torch.arange(size, device=blank.device)
    t = torch.arange(times, device=blank.device)[None, :, None]
    b = torch.arange(batch, device=blank.device)[:, None, None]
    u, t_end, u_end = first[:, :, None] + s, frame_lens[:, None, None], token_lens[:, None, None]
    stays = u >= torch.cat([first[:, 1:], first[:, -1:]], 1)[:, :, None]  # in the next frame's part of the band
    blank_exists = (t < t_end) & (u <= u_end) & torch.where(t == t_end - 1, u == u_end, stays)
    label_exists = (t < t_end) & (u < u_end) & (s < size - 1)
    blank, label = blank.double(), label.double()

    # Counted from the start, a node is on diagonal t + u. Counted from the end of its utterance, it is on the remaining
    # diagonal, and arcs are reversed.
    diagonals = int((frame_lens + token_lens).max()) + 1
    ahead, left = t + u, t_end + u_end - t - u - 1
    slot, slot_left = u % size, (u_end - u) % size
    arcs = blank.new_full((2, diagonals, 2 * batch, size), NEG_INF)
    for kind, (values, exist) in enumerate(((blank, blank_exists), (label, label_exists))):
        indices = ((ahead, b, (slot + kind) % size), (left, batch + b, slot_left))
        for index in indices:
            arcs[kind][tuple(part.expand(exist.shape)[exist] for part in index)] = values[exist]
    nodes = _recursion(arcs, circular=True)[:, :, 1:]
    ends = torch.arange(batch, device=blank.device)
    log_likelihood = nodes[frame_lens + token_lens, ends, token_lens % size]
    left = left.clamp(0, diagonals - 1)
    reached = nodes[ahead.clamp(max=diagonals - 1), b, slot] - log_likelihood[:, None, None]
    posteriors = [
        (reached + values + nodes[left, batch + b, (slot_left - kind) % size])
        .exp_()
        .masked_fill_(~exist, 0.0)
        .nan_to_num_(nan=0.0)
        for kind, (values, exist) in enumerate(((blank, blank_exists), (label, label_exists)))
    ]
    return ArcPosteriors(log_likelihood, *posteriors)


def lattice_loss(
    blank: torch.Tensor,
    label: torch.Tensor,
    frame_lens: torch.Tensor,
    token_lens: torch.Tensor,
    first: torch.Tensor | None = None,
) -> tuple[torch.Tensor, ArcPosteriors]:
    """Negative log-likelihoods (B,) as a differentiable function of the arcs' log probabilities.

    The gradient is in closed form: minus the posterior of each arc. The posteriors are returned too. With ``first``,
    the arcs are those of a band, see :func:`banded_posteriors`, else of the full lattice.
    """
    arcs = blank, label, frame_lens, token_lens, first
    losses, likelihoods, *posteriors = _LatticeLoss.apply(*arcs)  # type: ignore[no-untyped-call]
    return losses, ArcPosteriors(likelihoods, *posteriors)


class _LatticeLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        blank: torch.Tensor,
        label: torch.Tensor,
        frame_lens: torch.Tensor,
        token_lens: torch.Tensor,
        first: torch.Tensor | None,
    ) -> tuple[torch.Tensor, ...]:
        if first is None:
            posteriors = arc_posteriors(blank, label, frame_lens, token_lens)
        else:
            posteriors = banded_posteriors(blank, label, first, frame_lens, token_lens)
        ctx.save_for_backward(posteriors.blank, posteriors.label)
        ctx.mark_non_differentiable(posteriors.log_likelihood, posteriors.blank, posteriors.label)
        return -posteriors.log_likelihood.to(blank.dtype), posteriors.log_likelihood, posteriors.blank, posteriors.label

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: torch.Tensor, *_: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        blank, label = (-grad[:, None, None] * posterior.to(grad.dtype) for posterior in ctx.saved_tensors)
        return blank, label, None, None, None


def _closed(
    blank: torch.Tensor, label: torch.Tensor, frame_lens: torch.Tensor, token_lens: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Arcs with one more row of nodes, (B, T + 1, U + 1), -inf for impossible arcs.

    From the end of a shorter utterance, a path of arcs with probability 1 leads to the end of the longest, and all
    other arcs in the padding are impossible. So all utterances begin at (0, 0) and end at (T, U).
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


def _skewed(blank: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """The arcs by the diagonal of the node that they leave.

    Args:
        blank: (B, T + 1, U + 1).
        label: (B, T + 1, U + 1).

    Returns:
        (2, D, B, U + 2) for the D = T + U + 1 diagonals; column u holds the blank arc of its node and the label arc
        that enters it.
    """
    batch, rows, width = blank.shape
    out = blank.new_full((2, rows + width - 1, batch, width + 1), NEG_INF)
    for kind, arcs in enumerate((blank, label)):
        _unskew(out[kind], rows, kind)[:, :, : width - kind].copy_(arcs[:, :, : width - kind])
    return out


def _recursion(arcs: torch.Tensor, circular: bool = False) -> torch.Tensor:
    """Log probability of reaching each node from (0, 0).

    Args:
        arcs: (2, D, B, U + 1): each column's blank arc, and the label arc that enters it.
        circular: the column before the first is the last.

    Returns:
        (D, B, U + 2); a node's column is its u + 1, and column 0 holds the predecessors of u = 0 by a label.
    """
    diagonals, batch, width = arcs.shape[1:]
    nodes = arcs.new_full((diagonals, batch, width + 1), NEG_INF)
    nodes[0, :, 1] = 0.0
    reached, before = nodes[:, :, 1:].unbind(0), nodes[:, :, :-1].unbind(0)
    around, last = (nodes[:, :, 0].unbind(0), nodes[:, :, -1].unbind(0)) if circular else ((), ())
    blank, label = arcs[0].unbind(0), arcs[1].unbind(0)
    via_blank, via_label = (torch.empty_like(blank[0]) for _ in range(2))
    for i in range(diagonals - 1):
        torch.add(reached[i], blank[i], out=via_blank)
        torch.add(before[i], label[i], out=via_label)
        torch.logaddexp(via_blank, via_label, out=reached[i + 1])
        if circular:
            around[i + 1].copy_(last[i + 1])
    return nodes


def _backward_recursion(arcs: torch.Tensor) -> torch.Tensor:
    """Log probability of reaching the end (T, U) from each node.

    Args:
        arcs: (2, D, B, U + 2) from :func:`_skewed`.

    Returns:
        (D, B, U + 2); the last column holds the successors of u = U by a label.
    """
    nodes = torch.full_like(arcs[0], NEG_INF)
    nodes[-1, :, -2] = 0.0
    reached, behind = nodes[:, :, :-1].unbind(0), nodes[:, :, 1:].unbind(0)
    blank, label = arcs[0, :, :, :-1].unbind(0), arcs[1, :, :, 1:].unbind(0)
    via_blank, via_label = (torch.empty_like(blank[0]) for _ in range(2))
    for i in range(len(reached) - 2, -1, -1):
        torch.add(reached[i + 1], blank[i], out=via_blank)
        torch.add(behind[i + 1], label[i], out=via_label)
        torch.logaddexp(via_blank, via_label, out=reached[i])
    return nodes


def _unskew(x: torch.Tensor, rows: int, kind: int = 0) -> torch.Tensor:
    """Values (D, B, ...) by diagonal to a view (B, rows, U + 1) by frame: entry (b, t, u) is x[t + u, b, u + kind]."""
    diagonal, batch, column = x.stride()
    shape = x.shape[1], rows, x.shape[0] - rows + 1
    return x.as_strided(shape, (batch, diagonal, diagonal + column), x.storage_offset() + kind)
