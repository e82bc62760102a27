"""The transducer loss over the full lattice (Graves 2012, arXiv 1211.3711).

The gradient with respect to the logits has a closed form (ibid., eq. 20) in the posteriors of each node's arcs. So the
logits are read twice, in blocks of frames that fit a core's cache, and only one tensor of their size is allocated:
their gradient.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from asrkit.losses.lattice import ArcPosteriors, arc_posteriors, log_likelihood

BLOCK_ELEMENTS = 1 << 17
"""Logits in a block, on a CPU."""
CUDA_BLOCK_ELEMENTS = 1 << 25
"""On CUDA, where launching a kernel takes longer than computing a small block."""
PAD_ROWS = 1024
"""Packed logits may be padded to a multiple of this many rows, as every new shape compiles a matrix kernel."""


@dataclass(frozen=True)
class _Settings:
    """Settings of the gradient."""

    blank_id: int
    fastemit_lambda: float
    clamp: float


def transducer_loss(
    logits: torch.Tensor,
    tokens: torch.Tensor,
    encoder_lens: torch.Tensor,
    token_lens: torch.Tensor,
    *,
    blank_id: int = 0,
    reduction: str = "none",
    fastemit_lambda: float = 0.0,
    clamp: float = 0.0,
) -> torch.Tensor:
    """-log P(tokens | x) of each utterance (Graves 2012, arXiv 1211.3711, eq. 18).

    Args:
        logits: (B, T', U + 1, V) of any floating type, or packed (N, V): for each utterance its T'_b · (U_b + 1)
            rows, frame by frame, optionally padded to a multiple of ``PAD_ROWS``. Softmax is computed in at least
            float32.
        tokens: (B, U).
        encoder_lens: (B,), at least 1.
        token_lens: (B,).
        blank_id: index of blank among the V symbols.
        reduction: ``none``, ``sum`` or ``mean`` (over utterances).
        fastemit_lambda: the gradient of label arcs is scaled by 1 + this (Yu et al. 2021, arXiv 2010.11148,
            eq. 9); the value stays that of the plain loss.
        clamp: bound on each element of the gradient; 0 for none.

    Returns:
        (B,), or a scalar; infinite (with gradient 0) if an utterance has no possible alignment.

    Raises:
        ValueError: inconsistent shapes or lengths.
    """
    _check(logits, tokens, encoder_lens, token_lens, blank_id)
    settings = _Settings(blank_id, fastemit_lambda, clamp)
    losses: torch.Tensor = _TransducerLoss.apply(logits, tokens, encoder_lens, token_lens, settings)  # type: ignore[no-untyped-call]
    if reduction == "none":
        return losses
    if reduction not in ("sum", "mean"):
        raise ValueError(f"reduction must be none, sum or mean, got {reduction}")
    return losses.sum() if reduction == "sum" else losses.mean()


def block_elements(device: torch.device) -> int:
    """Logits in a block on a device."""
    return BLOCK_ELEMENTS if device.type == "cpu" else CUDA_BLOCK_ELEMENTS


def padded_rows(rows: int) -> int:
    """Rows of packed logits, padding included."""
    return rows + -rows % PAD_ROWS


@torch.no_grad()
def transducer_posteriors(
    logits: torch.Tensor,
    tokens: torch.Tensor,
    encoder_lens: torch.Tensor,
    token_lens: torch.Tensor,
    *,
    blank_id: int = 0,
) -> ArcPosteriors:
    """Posteriors of the blank and label arcs given the labels, for alignments; arguments as of the loss.

    At each u, ``label[b, :, u]`` is a distribution over the frames at which label u is emitted.
    """
    blank, label = transducer_arcs(logits, tokens, encoder_lens, token_lens, blank_id=blank_id)
    return arc_posteriors(blank, label, encoder_lens, token_lens)


@torch.no_grad()
def transducer_arcs(
    logits: torch.Tensor,
    tokens: torch.Tensor,
    encoder_lens: torch.Tensor,
    token_lens: torch.Tensor,
    *,
    blank_id: int = 0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, T', U + 1) log probabilities of the blank and of the label arcs, 0 in the padding; arguments as above."""
    _check(logits, tokens, encoder_lens, token_lens, blank_id)
    return _arcs(logits, tokens, encoder_lens, token_lens, blank_id)


class _TransducerLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        logits: torch.Tensor,
        tokens: torch.Tensor,
        encoder_lens: torch.Tensor,
        token_lens: torch.Tensor,
        settings: _Settings,
    ) -> torch.Tensor:
        blank, label = _arcs(logits, tokens, encoder_lens, token_lens, settings.blank_id)
        if not ctx.needs_input_grad[0]:
            return -log_likelihood(blank, label, encoder_lens, token_lens).to(blank.dtype)
        posteriors = arc_posteriors(blank, label, encoder_lens, token_lens)
        ctx.save_for_backward(logits, tokens, encoder_lens, token_lens, posteriors.blank, posteriors.label)
        ctx.settings = settings
        return -posteriors.log_likelihood.to(blank.dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        logits, tokens, encoder_lens, token_lens, blank, label = ctx.saved_tensors
        blank, label = blank.to(grad.dtype), label.to(grad.dtype) * (1 + ctx.settings.fastemit_lambda)
        logits_grad = _gradient(logits, tokens, encoder_lens, token_lens, blank, label, grad, ctx.settings)
        return logits_grad, None, None, None, None


def _arcs(
    logits: torch.Tensor, tokens: torch.Tensor, encoder_lens: torch.Tensor, token_lens: torch.Tensor, blank_id: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log probabilities (B, T', U + 1) of the blank and of the label arcs, 0 in the padding."""
    shape = (tokens.shape[0], int(encoder_lens.max()), int(token_lens.max()) + 1)
    dtype = torch.promote_types(logits.dtype, torch.float32)
    blank, label = (torch.zeros(shape, dtype=dtype, device=logits.device) for _ in range(2))
    for b, t, block in _blocks(logits, encoder_lens, token_lens):
        frames, rows = block.shape[0], block.shape[1]
        log_probs = torch.log_softmax(block.to(dtype), dim=-1)
        blank[b, t : t + frames, :rows] = log_probs[:, :, blank_id]
        index = tokens[b, : rows - 1].expand(frames, -1).unsqueeze(-1)
        label[b, t : t + frames, : rows - 1] = log_probs[:, :-1].gather(-1, index).squeeze(-1)
    return blank, label


def _gradient(
    logits: torch.Tensor,
    tokens: torch.Tensor,
    encoder_lens: torch.Tensor,
    token_lens: torch.Tensor,
    blank: torch.Tensor,
    label: torch.Tensor,
    grad: torch.Tensor,
    settings: _Settings,
) -> torch.Tensor:
    """d loss / d logits: (posterior of leaving the node) · softmax - (posterior of leaving it by each symbol)."""
    out = torch.zeros_like(logits)
    targets = _blocks(out, encoder_lens, token_lens)
    for (b, t, block), (_, _, target) in zip(_blocks(logits, encoder_lens, token_lens), targets, strict=True):
        frames, rows = block.shape[0], block.shape[1]
        blank_posterior, label_posterior = blank[b, t : t + frames, :rows], label[b, t : t + frames, :rows]
        part = torch.softmax(block.to(blank.dtype), dim=-1).mul_((blank_posterior + label_posterior).unsqueeze(-1))
        part[:, :, settings.blank_id] -= blank_posterior
        index = tokens[b, : rows - 1].expand(frames, -1).unsqueeze(-1)
        part[:, :-1].scatter_add_(-1, index, -label_posterior[:, :-1].unsqueeze(-1))
        if settings.clamp > 0:
            part.clamp_(-settings.clamp, settings.clamp)
        torch.mul(part, grad[b], out=target) if target.dtype == part.dtype else target.copy_(part.mul_(grad[b]))
    return out


def _blocks(
    logits: torch.Tensor, encoder_lens: torch.Tensor, token_lens: torch.Tensor
) -> Iterator[tuple[int, int, torch.Tensor]]:
    """Blocks of the valid part of padded or packed logits: utterance, first frame, view (frames, U_b + 1, V)."""
    row = 0
    for b, (frames, labels) in enumerate(zip(encoder_lens.tolist(), token_lens.tolist(), strict=True)):
        rows = labels + 1
        if logits.dim() == 4:
            utterance = logits[b, :frames, :rows]
        else:
            utterance = logits[row : row + frames * rows].view(frames, rows, -1)
            row += frames * rows
        step = max(1, block_elements(logits.device) // (rows * logits.shape[-1]))
        for t in range(0, frames, step):
            yield b, t, utterance[t : t + step]


def _check(
    logits: torch.Tensor, tokens: torch.Tensor, encoder_lens: torch.Tensor, token_lens: torch.Tensor, blank_id: int
) -> None:
    if not 0 <= blank_id < logits.shape[-1]:
        raise ValueError(f"blank_id {blank_id} is not among the {logits.shape[-1]} symbols of the logits")
    if int(encoder_lens.min()) < 1:
        raise ValueError("an utterance has no encoder frame; each needs one at least")
    if int(token_lens.max()) > tokens.shape[1]:
        raise ValueError(f"token_lens has {int(token_lens.max())} but tokens only {tokens.shape[1]} columns")
    expected: tuple[int, ...]
    if logits.dim() == 4:
        expected = (tokens.shape[0], int(encoder_lens.max()), int(token_lens.max()) + 1)
        fits = logits.shape[0] == expected[0] and logits.shape[1] >= expected[1] and logits.shape[2] >= expected[2]
    else:
        expected = (int((encoder_lens * (token_lens + 1)).sum()),)
        fits = logits.shape[0] in (expected[0], padded_rows(expected[0]))
    if not fits:
        raise ValueError(f"logits of shape {tuple(logits.shape)} do not hold the lattices {expected} of the lengths")
