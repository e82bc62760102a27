"""Joint network of the transducer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from asrkit.losses.pruned_transducer import prune
from asrkit.losses.transducer import block_elements, padded_rows
from asrkit.models.tanh import tanh_
from asrkit.symbols import BLANK_ID


class Joiner(nn.Module):
    """Logits of W_out tanh(W_enc h ∘ W_pred g), ∘ a sum or an element-wise product.

    The product is from Saon et al. 2021 (arXiv 2103.09935), eq. 4.
    """

    def __init__(
        self, encoder_dim: int, predictor_dim: int, joiner_dim: int, vocab_size: int, combination: str
    ) -> None:
        super().__init__()
        if combination not in ("add", "multiply"):
            raise ValueError(f"combination must be add or multiply, got {combination}")
        self.combination = combination
        self.encoder_dim, self.joiner_dim, self.vocab_size = encoder_dim, joiner_dim, vocab_size
        self.encoder_proj = nn.Linear(encoder_dim, joiner_dim)
        self.predictor_proj = nn.Linear(predictor_dim, joiner_dim)
        self.out = nn.Linear(joiner_dim, vocab_size)

    def combine(self, encoder_proj: torch.Tensor, predictor_proj: torch.Tensor) -> torch.Tensor:
        """Projected encoder and predictor outputs of broadcastable shapes (..., J) to logits (..., V)."""
        result: torch.Tensor = self.out(torch.tanh(self._joined(encoder_proj, predictor_proj)))
        return result

    @torch.no_grad()
    def log_probs(
        self, encoder_proj: torch.Tensor, predictor_proj: torch.Tensor, blank_penalty: float = 0.0
    ) -> torch.Tensor:
        """:meth:`combine`, minus ``blank_penalty`` for blank, normalized in at least float32; no gradient."""
        logits = self.out(tanh_(self._joined(encoder_proj, predictor_proj)))
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        if blank_penalty:
            logits[..., BLANK_ID] -= blank_penalty
        return torch.log_softmax(logits, dim=-1)

    def _joined(self, encoder_proj: torch.Tensor, predictor_proj: torch.Tensor) -> torch.Tensor:
        return encoder_proj + predictor_proj if self.combination == "add" else encoder_proj * predictor_proj

    def forward(self, encoder_out: torch.Tensor, predictor_out: torch.Tensor) -> torch.Tensor:
        """(B, T', D) and (B, U + 1, P) to logits (B, T', U + 1, V)."""
        encoder_proj = self.encoder_proj(encoder_out).unsqueeze(2)
        predictor_proj = self.predictor_proj(predictor_out).unsqueeze(1)
        return self.combine(encoder_proj, predictor_proj)

    def packed(
        self,
        encoder_out: torch.Tensor,
        predictor_out: torch.Tensor,
        encoder_lens: torch.Tensor,
        token_lens: torch.Tensor,
    ) -> torch.Tensor:
        """The logits of :meth:`forward` without its padding.

        Args:
            encoder_out: (B, T', D).
            predictor_out: (B, U + 1, P).
            encoder_lens: (B,).
            token_lens: (B,).

        Returns:
            (N, V): T'_b · (U_b + 1) rows per utterance, frame by frame, padded as in :func:`padded_rows`.
        """
        joint = _PackedJoint.apply(  # type: ignore[no-untyped-call]
            self.encoder_proj(encoder_out),
            self.predictor_proj(predictor_out),
            encoder_lens.tolist(),
            [labels + 1 for labels in token_lens.tolist()],
            self.combination == "multiply",
        )
        result: torch.Tensor = self.out(joint)
        return result

    def pruned(self, encoder_out: torch.Tensor, predictor_out: torch.Tensor, bounds: torch.Tensor) -> torch.Tensor:
        """(B, T', D), (B, U + 1, P) and the label positions kept at each frame (B, T', S) to logits (B, T', S, V)."""
        return self.combine(*prune(self.encoder_proj(encoder_out), self.predictor_proj(predictor_out), bounds))


class _PackedJoint(torch.autograd.Function):
    """tanh(h_t ∘ g_u) for the real t and u of each utterance, written once into one tensor."""

    @staticmethod
    def forward(
        ctx: Any,
        encoder: torch.Tensor,
        predictor: torch.Tensor,
        frames: list[int],
        rows: list[int],
        multiply: bool,
    ) -> torch.Tensor:
        real = sum(t * u for t, u in zip(frames, rows, strict=True))
        out = encoder.new_empty(padded_rows(real), encoder.shape[2])
        out[real:] = 0.0
        combine = torch.mul if multiply else torch.add
        for b, t, u, part in _blocks(frames, rows, out):
            tanh_(combine(encoder[b, t, None], predictor[b, None, :u], out=out[part].view(-1, u, out.shape[1])))
        ctx.save_for_backward(encoder, predictor, out)
        ctx.sizes = frames, rows, multiply
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        encoder, predictor, out = ctx.saved_tensors
        frames, rows, multiply = ctx.sizes
        encoder_grad = torch.zeros_like(encoder)
        predictor_grad = torch.zeros_like(predictor, dtype=torch.promote_types(predictor.dtype, torch.float32))
        for b, t, u, part in _blocks(frames, rows, out):
            joint = (grad[part] * (1 - out[part].square())).view(-1, u, out.shape[1])
            encoder_grad[b, t] = (joint * predictor[b, None, :u] if multiply else joint).sum(1)
            predictor_grad[b, :u] += (joint * encoder[b, t, None] if multiply else joint).sum(0)
        return encoder_grad, predictor_grad.to(predictor.dtype), None, None, None


def _blocks(frames: list[int], rows: list[int], out: torch.Tensor) -> Iterator[tuple[int, slice, int, slice]]:
    """Cache-sized parts of the packed tensor: utterance, its frames, U_b + 1, and the rows of the tensor."""
    first = 0
    for b, (times, u) in enumerate(zip(frames, rows, strict=True)):
        step = max(1, block_elements(out.device) // (u * out.shape[1]))
        for t in range(0, times, step):
            number = min(step, times - t)
            yield b, slice(t, t + number), u, slice(first, first + number * u)
            first += number * u
