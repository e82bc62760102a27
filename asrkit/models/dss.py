"""Diagonal state spaces (Gupta et al. 2022, arXiv 2203.14343) as Saon et al. 2023 (arXiv 2302.14120) use them.

A channel u is filtered by a kernel K that a diagonal linear system generates. With N complex eigenvalues λ, tied
across channels (2302.14120, section 3), and per-channel steps Δ and output weights w, entry k of the kernel is

    exp form:      K[k] = Re Σ_n w_n (e^{λ_n Δ} - 1) / λ_n · e^{λ_n Δ k}
    softmax form:  K[k] = Re Σ_n w_n / λ_n · e^{λ_n Δ k} / Σ_{j < L} e^{λ_n Δ j}      (ibid., eq. 5)

Shape letters: B batch, T frames, H channels, N states, L kernel length, S directions (2 if bidirectional).
"""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch import nn
from torch.nn import functional as F

from asrkit.models.convolution import DepthwiseConv
from asrkit.models.dss_init import initial_lambda

PAPER_STEPS = (1e-3, 1e-1)
"""Smallest and largest initial Δ per frame in the paper."""
EPSILON = 1e-7
"""Keeps reciprocals finite, with the value of the authors' code."""
Pair = tuple[torch.Tensor, torch.Tensor]
"""Real and imaginary parts."""


class DssKernel(nn.Module):
    """The trained system and the kernels it generates.

    Args:
        channels: H.
        state_dim: N.
        init: of λ, see :func:`asrkit.models.dss_init.initial_lambda`.
        form: ``exp`` (λ keeps a negative real part) or ``softmax`` (λ is free).
        bidirectional: a second set of weights for future frames.
        kernel_length: L of the softmax form, whose normalizer depends on it; the same for every utterance, so
            that padding has no effect. The kernel of the exp form is as long as the batch.
        steps: smallest and largest initial Δ per frame, log-uniform in between. The paper's are for frames of 20 ms
            and half a million updates; a channel with Δ below 0.02 or above 0.3 cannot form a local filter.
        weight_scale: initial standard deviation of w.
    """

    def __init__(
        self,
        channels: int,
        state_dim: int,
        init: str,
        form: str,
        bidirectional: bool,
        kernel_length: int = 0,
        steps: tuple[float, float] = PAPER_STEPS,
        weight_scale: float = 1.0,
    ) -> None:
        super().__init__()
        if form not in ("exp", "softmax"):
            raise ValueError(f"form must be exp or softmax, got {form}")
        if form == "softmax" and kernel_length < 1:
            raise ValueError("the softmax form needs a kernel_length of 1 at least")
        self.form, self.kernel_length = form, kernel_length
        start = initial_lambda(init, state_dim)
        # Complex parameters are pairs of reals, so that Adam's moments are real.
        self.lambda_re = nn.Parameter(torch.log(-start.real) if form == "exp" else start.real.clone())
        self.lambda_im = nn.Parameter(start.imag.clone())
        self.log_step = nn.Parameter(torch.empty(channels).uniform_(*map(math.log, steps)))
        self.weight = nn.Parameter(weight_scale * torch.randn(2, 2 if bidirectional else 1, channels, state_dim))

    def eigenvalues(self) -> Pair:
        """λ, two (N,) tensors."""
        return (-self.lambda_re.exp() if self.form == "exp" else self.lambda_re), self.lambda_im

    def forward(self, length: int) -> torch.Tensor:
        """Kernels (S, H, L) with L = ``length``, or at most ``kernel_length`` in the softmax form."""
        re, im = self.eigenvalues()
        step = self.log_step.exp()[:, None]
        exponent = torch.complex(re * step, im * step)  # λΔ (H, N)
        weight = torch.complex(self.weight[0], self.weight[1])  # (S, H, N)
        eigenvalue = torch.complex(re, im)
        if self.form == "exp":
            coefficient = weight * torch.expm1(exponent) * _reciprocal(eigenvalue)
            return vandermonde(coefficient, exponent, length)
        # For a growing exponential, sums run from the kernel's end, which has the largest value.
        grows = re > 0
        decaying = torch.where(grows, -exponent, exponent)
        normalizer = torch.expm1(self.kernel_length * decaying)
        coefficient = weight * _reciprocal(eigenvalue) * torch.expm1(decaying) * _reciprocal(normalizer)
        kernel = vandermonde(coefficient * ~grows, decaying, self.kernel_length)
        if bool(grows.any()):
            kernel = kernel + vandermonde(coefficient * grows, decaying, self.kernel_length).flip(-1)
        return kernel[..., :length]

    def transition(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The recurrent form x_k = a x_{k-1} + u_k, y_k = Re(c · x_k): a (H, N) and c (H, N), complex.

        Raises:
            ValueError: bidirectional, or softmax form.
        """
        if self.weight.shape[1] != 1 or self.form != "exp":
            raise ValueError("only the causal exp form has a recurrence")
        re, im = self.eigenvalues()
        step = self.log_step.exp()[:, None]
        exponent = torch.complex(re * step, im * step)
        weight = torch.complex(self.weight[0, 0], self.weight[1, 0])
        return exponent.exp(), weight * torch.expm1(exponent) * _reciprocal(torch.complex(re, im))


class DssLayer(nn.Module):
    """Kernels, shortcut, GELU, a linear map over channels and GLU (Saon et al. 2023, section 3).

    As in the authors' code, the map doubles the width and the GLU halves it, which gives the paper's model its stated
    73 M parameters.

    Args:
        channels: H.
        state_dim: N.
        init: of λ.
        form: ``exp`` or ``softmax``.
        bidirectional: see :class:`DssKernel`.
        kernel_length: of the softmax form.
        steps: initial steps of the channels.
        weight_scale: initial deviation of the output weights.
        local_kernel: taps of a depthwise convolution that replaces the shortcut, which has a single tap; 0 keeps the
            shortcut. Shan et al. 2023 (arXiv 2309.08551) stack state spaces with a local convolution.
    """

    def __init__(
        self,
        channels: int,
        state_dim: int = 96,
        init: str = "linear",
        form: str = "exp",
        bidirectional: bool = True,
        kernel_length: int = 0,
        steps: tuple[float, float] = PAPER_STEPS,
        weight_scale: float = 1.0,
        local_kernel: int = 0,
    ) -> None:
        super().__init__()
        self.channels = channels
        self.kernel = DssKernel(
            channels, state_dim, init, form, bidirectional, kernel_length, steps=steps, weight_scale=weight_scale
        )
        self.local: DepthwiseConv | None = None
        self.shortcut: nn.Parameter | None = None
        if local_kernel:
            self.local = DepthwiseConv(channels, local_kernel)
        else:
            self.shortcut = nn.Parameter(torch.randn(channels))
        self.out = nn.Linear(channels, 2 * channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, T, H), zero in the padding, to (B, T, H); the filter runs in float32 even under autocast."""
        with torch.autocast(x.device.type, enabled=False):
            u = x.to(torch.promote_types(x.dtype, torch.float32))
            local = u * self.shortcut if self.shortcut is not None else cast(DepthwiseConv, self.local)(u)
            y = F.gelu(convolve(u, self.kernel(x.shape[1])) + local)
        return F.glu(self.out(y.to(x.dtype)), dim=-1)

    def initial_state(self, batch: int) -> torch.Tensor:
        """The state before the first frame, complex (B, H, N)."""
        shape = (batch, *self.kernel.weight.shape[2:])
        return torch.zeros(shape, dtype=torch.complex64, device=self.kernel.weight.device)

    def step(self, x: torch.Tensor, state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The causal layer, streaming: one frame (B, H) and the state to one frame (B, H) and the next state.

        Raises:
            ValueError: the layer sees future frames.
        """
        if self.shortcut is None:
            raise ValueError("a local convolution sees future frames")
        transition, output = self.kernel.transition()
        state = transition * state + x[:, :, None]
        y = (output * state).sum(-1).real + self.shortcut * x
        return F.glu(self.out(F.gelu(y)), dim=-1), state


def vandermonde(coefficient: torch.Tensor, exponent: torch.Tensor, length: int) -> torch.Tensor:
    """Re Σ_n coefficient_n e^{exponent_n k} for k = 0 … length - 1.

    With k = M i + j the exponential is a product of one that depends on i and one that depends on j, so the sum
    over n is a matrix product of (L / M, N) by (N, M): only H·N·(L / M + M) of the H·N·L exponentials remain.

    Args:
        coefficient: complex (S, H, N).
        exponent: complex (H, N).
        length: L.

    Returns:
        (S, H, L).
    """
    parts = coefficient.real, coefficient.imag, exponent.real, exponent.imag
    kernels: torch.Tensor = _Vandermonde.apply(*parts, length)  # type: ignore[no-untyped-call]
    return kernels


class _Vandermonde(torch.autograd.Function):
    """With g the gradient of the kernel, that of c_n is Σ_k g_k e^{x_n k} and that of x_n is c_n Σ_k k g_k e^{x_n k}.

    Both sums run over j first, as matrix products, then over i. (I = L / M below.)
    """

    @staticmethod
    def forward(
        ctx: Any, c_re: torch.Tensor, c_im: torch.Tensor, x_re: torch.Tensor, x_im: torch.Tensor, length: int
    ) -> torch.Tensor:
        directions, channels = c_re.shape[:2]
        inner = 1 << round(math.log2(max(1.0, math.sqrt(length * directions)) + 1e-9))  # M
        outer = -(-length // inner)
        inner_re, inner_im = powers(x_re, x_im, inner)  # (M, H, N)
        outer_re, outer_im = powers(x_re * inner, x_im * inner, outer)  # (I, H, N)
        ctx.save_for_backward(c_re, c_im, inner_re, inner_im, outer_re, outer_im)
        re, im = c_re[:, None], c_im[:, None]  # (S, 1, H, N)
        left_re = (re * outer_re - im * outer_im).flatten(0, 1).transpose(0, 1)  # (H, S I, N)
        left_im = (re * outer_im + im * outer_re).flatten(0, 1).transpose(0, 1)
        kernel = torch.bmm(left_re, inner_re.permute(1, 2, 0))  # (H, S I, M)
        kernel = torch.baddbmm(kernel, left_im, inner_im.permute(1, 2, 0), alpha=-1)
        return kernel.view(channels, directions, outer * inner)[:, :, :length].transpose(0, 1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        c_re, c_im, inner_re, inner_im, outer_re, outer_im = ctx.saved_tensors
        (directions, channels, length), (inner, outer) = grad.shape, (inner_re.shape[0], outer_re.shape[0])
        g = F.pad(grad, (0, outer * inner - length)).transpose(0, 1).reshape(channels, directions * outer, inner)
        i, j = (torch.arange(n, dtype=grad.dtype, device=grad.device) for n in (outer, inner))
        both = torch.cat([g, g * j], dim=1)  # weights g and j g
        shape = (channels, 2, directions, outer, -1)
        # Sums over j, (I, 2, S, H, N): [:, 0] of g, [:, 1] of j g, and, plus M i times the former, of k g.
        re = torch.bmm(both, inner_re.transpose(0, 1)).view(shape).permute(3, 1, 2, 0, 4)
        im = torch.bmm(both, inner_im.transpose(0, 1)).view(shape).permute(3, 1, 2, 0, 4)
        first = (inner * i)[:, None, None, None]
        re[:, 1].addcmul_(first, re[:, 0])
        im[:, 1].addcmul_(first, im[:, 0])
        by_re, by_im = outer_re[:, None, None], outer_im[:, None, None]
        sum_re = (re * by_re).addcmul_(im, by_im, value=-1).sum(0)  # (2, S, H, N)
        sum_im = (re * by_im).addcmul_(im, by_re).sum(0)
        x_re_grad = (c_re * sum_re[1] - c_im * sum_im[1]).sum(0)
        x_im_grad = -(c_re * sum_im[1] + c_im * sum_re[1]).sum(0)
        return sum_re[0], -sum_im[0], x_re_grad, x_im_grad, None


def powers(re: torch.Tensor, im: torch.Tensor, number: int) -> Pair:
    """Real and imaginary part of e^{(re + i im) k} for k = 0 … number - 1, each (number, *re.shape); no gradient."""
    out_re, out_im = (re.new_empty(number, *re.shape) for _ in range(2))
    out_re[0], out_im[0] = 1.0, 0.0
    done = 1
    while done < number:  # e^{x (done + k)} = e^{x done} e^{xk}: doubles every iteration
        new = slice(done, min(2 * done, number))
        old = slice(0, new.stop - done)
        size, angle = (re * done).exp(), im * done
        factor_re, factor_im = size * angle.cos(), size * angle.sin()
        torch.mul(out_re[old], factor_re, out=out_re[new]).addcmul_(out_im[old], factor_im, value=-1)
        torch.mul(out_re[old], factor_im, out=out_im[new]).addcmul_(out_im[old], factor_re)
        done = new.stop
    return out_re, out_im


def convolve(x: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
    """Filters channels by FFT.

    Args:
        x: (B, T, H).
        kernel: (S, H, L), L <= T. The second direction, if any, looks ahead:
            y_t = Σ_j K_0[j] x_{t-j} + Σ_j K_1[j] x_{t+1+j}.

    Returns:
        (B, T, H).
    """
    times, length = x.shape[1], kernel.shape[2]
    size = fast_length(times + length)
    both = F.pad(kernel[0], (0, size - length))
    if kernel.shape[0] == 2:  # place -1 - j on the circle
        both = both + F.pad(kernel[1].flip(-1), (size - length, 0))
    filtered: torch.Tensor = _CircularConvolution.apply(x, both)  # type: ignore[no-untyped-call]
    return filtered


class _CircularConvolution(torch.autograd.Function):
    """(B, T, H) by (H, size). Both gradients are products of spectra; autograd takes twice as long."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
        size = kernel.shape[1]
        x_spectrum = torch.fft.rfft(x.transpose(1, 2), n=size)  # (B, H, F)
        kernel_spectrum = torch.fft.rfft(kernel)  # (H, F)
        ctx.save_for_backward(x_spectrum, kernel_spectrum)
        ctx.size = size
        y = torch.fft.irfft(x_spectrum * kernel_spectrum, n=size)[..., : x.shape[1]]
        # In the memory order of x, as later operations are slow across strides.
        result: torch.Tensor = y.transpose(1, 2).contiguous()
        return result

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x_spectrum, kernel_spectrum = ctx.saved_tensors
        grad_spectrum = torch.fft.rfft(grad.transpose(1, 2), n=ctx.size)
        x_grad = torch.fft.irfft(grad_spectrum * kernel_spectrum.conj(), n=ctx.size)[..., : grad.shape[1]]
        kernel_grad = torch.fft.irfft((grad_spectrum * x_spectrum.conj()).sum(0), n=ctx.size)
        return x_grad.transpose(1, 2).contiguous(), kernel_grad


def fast_length(least: int) -> int:
    """The smallest even number >= ``least`` with no prime factor above 5: FFTs of such sizes are fast."""
    size = least + least % 2
    while True:
        rest = size
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return size
        size += 2


def _reciprocal(x: torch.Tensor) -> torch.Tensor:
    """1 / x, finite at 0."""
    return x.conj() / (x.abs().square() + EPSILON)
