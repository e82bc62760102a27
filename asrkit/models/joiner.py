"""Joint network of the transducer."""

from __future__ import annotations

import torch
from torch import nn

from asrkit.losses.pruned_transducer import prune


class Joiner(nn.Module):
    """Logits of W_out tanh(W_enc h ∘ W_pred g), ∘ a sum or an element-wise product.

    The product is that of Saon et al. 2021 (arXiv 2103.09935), eq. 4.
    """

    def __init__(
        self, encoder_dim: int, predictor_dim: int, joiner_dim: int, vocab_size: int, combination: str
    ) -> None:
        super().__init__()
        if combination not in ("add", "multiply"):
            raise ValueError(f"combination must be add or multiply, got {combination}")
        self.combination = combination
        self.encoder_proj = nn.Linear(encoder_dim, joiner_dim)
        self.predictor_proj = nn.Linear(predictor_dim, joiner_dim)
        self.out = nn.Linear(joiner_dim, vocab_size)

    def combine(self, encoder_proj: torch.Tensor, predictor_proj: torch.Tensor) -> torch.Tensor:
        """Projected encoder and predictor outputs of shapes that broadcast, (..., J), to logits (..., V)."""
        if self.combination == "add":
            joint = encoder_proj + predictor_proj
        else:
            joint = encoder_proj * predictor_proj
        return self.out(torch.tanh(joint))

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
            (N, V): T'_b · (U_b + 1) rows an utterance, frame after frame.
        """
        joint = _PackedJoint.apply(
            self.encoder_proj(encoder_out),
            self.predictor_proj(predictor_out),
            encoder_lens.tolist(),
            [labels + 1 for labels in token_lens.tolist()],
            self.combination == "multiply",
        )
        return self.out(joint)

    def pruned(self, encoder_out: torch.Tensor, predictor_out: torch.Tensor, bounds: torch.Tensor) -> torch.Tensor:
        """(B, T', D), (B, U + 1, P) and the label positions kept at each frame (B, T', S) to logits (B, T', S, V)."""
        return self.combine(*prune(self.encoder_proj(encoder_out), self.predictor_proj(predictor_out), bounds))


class _PackedJoint(torch.autograd.Function):
    """tanh(h_t ∘ g_u) for the real t and u of each utterance, written into one tensor once."""

    @staticmethod
    def forward(ctx, encoder, predictor, frames, rows, multiply):  # type: ignore[no-untyped-def]
        out = encoder.new_empty(sum(t * u for t, u in zip(frames, rows, strict=True)), encoder.shape[2])
        combine = torch.mul if multiply else torch.add
        for h, g, joint in _utterances(encoder, predictor, out, frames, rows):
            combine(h, g, out=joint)
        out.tanh_()
        ctx.save_for_backward(encoder, predictor, out)
        ctx.sizes = frames, rows, multiply
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        encoder, predictor, out = ctx.saved_tensors
        frames, rows, multiply = ctx.sizes
        grad = grad * (1 - out.square())
        grads = torch.zeros_like(encoder), torch.zeros_like(predictor)
        inputs = _utterances(encoder, predictor, grad, frames, rows)
        for (h, g, joint), (dh, dg, _) in zip(inputs, _utterances(*grads, grad, frames, rows), strict=True):
            dh.copy_((joint * g if multiply else joint).sum(1, keepdim=True))
            dg.copy_((joint * h if multiply else joint).sum(0, keepdim=True))
        return *grads, None, None, None


def _utterances(encoder, predictor, packed, frames, rows):  # type: ignore[no-untyped-def]
    """Views (T'_b, 1, J), (1, U_b + 1, J) and (T'_b, U_b + 1, J) of the real parts."""
    parts = packed.split([t * u for t, u in zip(frames, rows, strict=True)])
    for b, (t, u) in enumerate(zip(frames, rows, strict=True)):
        yield encoder[b, :t, None], predictor[b, None, :u], parts[b].view(t, u, -1)
