"""Forward and backward variables of the transducer's lattice, in float64.

A node (t, u) has left t frames by blank and emitted u labels. Two arcs leave it: blank to (t + 1, u) and the
next label to (t, u + 1) (Graves 2012, arXiv 1211.3711, section 2.4). All nodes with the same t + u are computed
at once, from those one diagonal before: T + U steps of three vectorised operations, for the forward and the
backward variables of all utterances together.
"""

from __future__ import annotations

from dataclasses import dataclass

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
    blank, label, inside = _closed(blank, label, frame_lens, token_lens)
    arcs = torch.stack([_skew(blank), _skew(label)])  # (2, T + U + 1, B, U + 1)
    reverse = torch.stack([_skew(_reversed(blank, 1)), _skew(_reversed(label, 2))])
    nodes = _recursion(torch.cat([arcs, reverse], dim=2))
    batch = blank.shape[0]
    alpha, beta = nodes[:, :batch], nodes[:, batch:].flip(0, 2)  # (T + U + 1, B, U + 1)
    log_likelihood = alpha[-1, :, -1]
    alpha = alpha - log_likelihood[:, None]
    after_blank, after_label = beta[1:], F.pad(beta[1:, :, 1:], (0, 1), value=NEG_INF)
    posteriors = []
    for arc, after in ((arcs[0], after_blank), (arcs[1], after_label)):
        posterior = (alpha[:-1] + arc[:-1] + after).exp_().nan_to_num_(nan=0.0)  # NaN where nothing is possible
        posteriors.append(_unskew(F.pad(posterior, (0, 0, 0, 0, 0, 1)))[:, :-1] * inside)
    return ArcPosteriors(log_likelihood, *posteriors)


@torch.no_grad()
def log_likelihood(
    blank: torch.Tensor, label: torch.Tensor, frame_lens: torch.Tensor, token_lens: torch.Tensor
) -> torch.Tensor:
    """The (B,) log-likelihoods of :func:`arc_posteriors` alone, in half of its time."""
    blank, label, _ = _closed(blank, label, frame_lens, token_lens)
    return _recursion(torch.stack([_skew(blank), _skew(label)]))[-1, :, -1]


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
    def forward(ctx, blank, label, frame_lens, token_lens):  # type: ignore[no-untyped-def]
        found = arc_posteriors(blank, label, frame_lens, token_lens)
        ctx.save_for_backward(found.blank, found.label)
        ctx.mark_non_differentiable(found.log_likelihood, found.blank, found.label)
        return -found.log_likelihood.to(blank.dtype), found.log_likelihood, found.blank, found.label

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad, *_):  # type: ignore[no-untyped-def]
        blank, label = (-grad[:, None, None] * posterior.to(grad.dtype) for posterior in ctx.saved_tensors)
        return blank, label, None, None


def _closed(
    blank: torch.Tensor, label: torch.Tensor, frame_lens: torch.Tensor, token_lens: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Arcs with one more row of nodes, (B, T + 1, U + 1), and (B, T, U + 1) which nodes are real.

    From the end of a shorter utterance a path of arcs with probability 1 leads to the end of the longest,
    and no other arc of the padding can be taken: so all utterances begin at (0, 0) and end at (T, U).
    """
    times, labels = blank.shape[1], blank.shape[2] - 1
    t = torch.arange(times + 1, device=blank.device)[None, :, None]
    u = torch.arange(labels + 1, device=blank.device)[None, None, :]
    t_end, u_end = frame_lens[:, None, None], token_lens[:, None, None]
    blank, label = (F.pad(arcs.double(), (0, 0, 0, 1)) for arcs in (blank, label))
    blank = blank.masked_fill((t >= t_end) | (u > u_end), NEG_INF)
    blank.masked_fill_((t >= t_end) & (t < times) & (u == u_end), 0.0)
    label = label.masked_fill((t >= t_end) | (u >= u_end), NEG_INF)
    label.masked_fill_((t == times) & (u >= u_end) & (u < labels), 0.0)
    inside = valid_mask(frame_lens, times)[:, :, None] & valid_mask(token_lens + 1, labels + 1)[:, None, :]
    return blank, label, inside


def _reversed(arcs: torch.Tensor, dim: int) -> torch.Tensor:
    """The arcs of the lattice read from its end: those along ``dim`` now leave the node that they entered."""
    moved = arcs.narrow(dim, 0, arcs.shape[dim] - 1).flip(1, 2)
    return F.pad(moved, (0, 1) if dim == 2 else (0, 0, 0, 1), value=NEG_INF)


def _recursion(arcs: torch.Tensor) -> torch.Tensor:
    """Log probability of reaching each node from (0, 0).

    Args:
        arcs: (2, D, B, U + 1) blank and label arcs by the diagonal of the node that they leave.

    Returns:
        (D, B, U + 1).
    """
    diagonals, batch, width = arcs.shape[1:]
    # A column of -inf before the first: what would enter u = 0 by a label.
    nodes = arcs.new_full((diagonals, batch, width + 1), NEG_INF)
    nodes[0, :, 1] = 0.0
    label = F.pad(arcs[1, :, :, :-1], (1, 0), value=NEG_INF)
    by_blank, by_label = (torch.empty_like(arcs[0, 0]) for _ in range(2))
    for i in range(1, diagonals):
        torch.add(nodes[i - 1, :, 1:], arcs[0, i - 1], out=by_blank)
        torch.add(nodes[i - 1, :, :-1], label[i - 1], out=by_label)
        torch.logaddexp(by_blank, by_label, out=nodes[i, :, 1:])
    return nodes[:, :, 1:]


def _skew(x: torch.Tensor) -> torch.Tensor:
    """(B, R, C) to (R + C - 1, B, C): entry (i, b, c) is x[b, i - c, c], -inf where there is none."""
    batch, rows, columns = x.shape
    padded = F.pad(x.transpose(1, 2), (0, columns), value=NEG_INF)  # (B, C, R + C)
    # One element less a row moves row c by c to the right.
    moved = padded.reshape(batch, -1)[:, :-columns].view(batch, columns, rows + columns - 1)
    return moved.permute(2, 0, 1).contiguous()


def _unskew(x: torch.Tensor) -> torch.Tensor:
    """The inverse of :func:`_skew`: (R + C - 1, B, C) to (B, R, C)."""
    diagonals, batch, columns = x.shape
    strides = (columns, batch * columns, batch * columns + 1)
    return x.contiguous().as_strided((batch, diagonals - columns + 1, columns), strides)
