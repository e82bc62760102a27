"""Quantizers of weights and activations with straight-through gradients.

They are those of Fasoli et al. 2021 ("4-bit quantization of LSTM-based speech recognition models", arXiv 2108.12074),
also used in their INT4 transducer (arXiv 2206.07882): MAX, SAWB (Choi et al. 2019), PACT (Choi et al. 2018,
arXiv 1805.06085) with one or two learned bounds, and bound-aware clipping (BAC). A quantizer maps x to one of n evenly
spaced values between its bounds,

    code = clamp(round((x - a⁻) (n - 1) / (a⁺ - a⁻)), 0, n - 1),   y = a⁻ + code (a⁺ - a⁻) / (n - 1),

with n = 2^k levels of k bits, or 2^k - 1 if zero is one of them ("zero-aligned"), so that zeros of dropout remain zero.
Bounds are taken from the data during training and kept for evaluation.

Shape letters: G groups of a weight with their own bounds, M elements of a group.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

BITS = (8, 4, 3, 2)
SAWB_COEFFICIENTS = {
    (2, False): (3.12, -2.064),
    (2, True): (2.6, -1.71),
    (3, False): (7.509, -6.892),
    (4, False): (12.68, -12.80),
    (4, True): (12.035, -12.03),
    (8, False): (31.76, -35.04),
}
"""c1 and c2 of a = c1 sqrt(E[w²]) + c2 E|w|, by bits and zero alignment."""
SMALLEST_BOUND = 1e-6
MAX_MOMENTUM = 0.1
"""Share of the newest batch in the running maximum of activations, which is the bound in evaluation."""


FITTED_VALUES = 1 << 16
FITTED_FRACTIONS = tuple(n / 20 for n in range(2, 21))
"""Fractions of the largest value that are tried as bounds without training."""


class Quantizer(nn.Module):
    """Maps a tensor to few values; subclasses differ in the source of their bounds.

    Args:
        bits: k.
        zero_aligned: 2^k - 1 levels, one of which is zero.
        groups: G, equal parts of the first dimension with their own bounds: 1 for the complete tensor, 4 for the gates
            of an LSTM, the number of rows for channels.
        clip_gradient: whether values outside the bounds get no gradient.
    """

    low: torch.Tensor
    """(G,) a⁻."""
    high: torch.Tensor
    """(G,) a⁺."""
    residual = False
    """Whether the rounding error inside the bounds also moves them."""

    def __init__(self, bits: int, zero_aligned: bool, groups: int = 1, clip_gradient: bool = True) -> None:
        super().__init__()
        if bits not in BITS:
            raise ValueError(f"bits must be one of {', '.join(map(str, BITS))}, got {bits}")
        self.bits, self.zero_aligned, self.groups, self.clip_gradient = bits, zero_aligned, groups, clip_gradient
        self.levels = 2**bits - int(zero_aligned)

    def observe(self, x: torch.Tensor) -> torch.Tensor | None:
        """Takes the bounds from a tensor (G, M) during training; returns a⁺ (G,) if this tensor has its own bounds."""
        return None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """A tensor of any shape with quantized values; its first dimension is a multiple of the groups."""
        grouped = x.reshape(self.groups, -1)
        observed = self.observe(grouped.detach()) if self.training else None
        # Copies, as tensors saved for the gradient must not change when the next tensor is observed.
        low, high = (self.low.clone(), self.high.clone()) if observed is None else (-observed, observed)
        low, high = low.to(x.device)[:, None], high.to(x.device)[:, None]
        out: torch.Tensor = _StraightThrough.apply(  # type: ignore[no-untyped-call]
            grouped, low, high, self.levels, self.zero_aligned, self.clip_gradient, self.residual
        )
        return out.view(x.shape)

    @torch.no_grad()
    def codes(self, x: torch.Tensor) -> torch.Tensor:
        """The codes of a tensor, int64 between 0 and levels - 1, of its shape."""
        low, high = self.low.to(x.device)[:, None], self.high.to(x.device)[:, None]
        grouped = x.reshape(self.groups, -1)
        return quantize(grouped, low, high, self.levels, self.zero_aligned).long().view(x.shape)

    @torch.no_grad()
    def scales(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Step and zero point, (G,) each: a value is step · (code - zero point). With an even number of levels between
        symmetric bounds, the zero point is between two codes."""
        zero = _zero_code(self.low, self.high, self.levels, self.zero_aligned)
        return (self.high - self.low) / (self.levels - 1), zero

    def extra_repr(self) -> str:
        """For printing a model."""
        return f"bits={self.bits}, levels={self.levels}, groups={self.groups}"


class SymmetricQuantizer(Quantizer):
    """One bound a for both sides, taken from the data."""

    def __init__(self, bits: int, zero_aligned: bool, groups: int, clip_gradient: bool) -> None:
        super().__init__(bits, zero_aligned, groups, clip_gradient)
        self.bound = nn.Buffer(torch.zeros(groups))

    @property
    def low(self) -> torch.Tensor:  # type: ignore[override]
        """(G,) -a."""
        return -self.bound

    @property
    def high(self) -> torch.Tensor:  # type: ignore[override]
        """(G,) a."""
        return self.bound


class MaxQuantizer(SymmetricQuantizer):
    """a = max |x| during training; in evaluation its running mean, or the newest one for weights.

    Args:
        bits: k.
        zero_aligned: as for activations.
        groups: G.
        momentum: share of the newest maximum in the running mean; 1 for weights.
    """

    def __init__(self, bits: int, zero_aligned: bool, groups: int = 1, momentum: float = 1.0) -> None:
        super().__init__(bits, zero_aligned, groups, clip_gradient=False)
        self.momentum = momentum

    def observe(self, x: torch.Tensor) -> torch.Tensor:
        """The largest value of each group (G, M); zeros and non-finite values leave the running mean unchanged."""
        largest = x.abs().amax(dim=1).to(self.bound.dtype)
        mean = torch.where(self.bound > 0, torch.lerp(self.bound, largest, self.momentum), largest)
        self.bound.copy_(torch.where((largest > 0) & largest.isfinite(), mean, self.bound))
        return largest

    @torch.no_grad()
    def widen(self, x: torch.Tensor) -> None:
        """Widens the bounds to the largest values of a tensor."""
        largest = x.reshape(self.groups, -1).abs().amax(dim=1).to(self.bound.dtype)
        self.bound.copy_(torch.maximum(self.bound, largest))


class SawbQuantizer(SymmetricQuantizer):
    """a = c1 sqrt(E[w²]) + c2 E|w|, near the bound of least squared error for the usual distributions of weights.

    Args:
        bits: k.
        zero_aligned: whether zero is a level.
        groups: G.
        clip_gradient: without it, the gradient also passes outside the bounds ("SAWB+").
    """

    def __init__(self, bits: int, zero_aligned: bool = False, groups: int = 1, clip_gradient: bool = False) -> None:
        super().__init__(bits, zero_aligned, groups, clip_gradient)
        if (bits, zero_aligned) not in SAWB_COEFFICIENTS:
            raise ValueError(f"there are no SAWB coefficients for {self.levels} levels")

    def observe(self, x: torch.Tensor) -> None:
        """The bound of each group (G, M); the largest value if the formula yields none."""
        first, second = SAWB_COEFFICIENTS[self.bits, self.zero_aligned]
        bound = first * x.square().mean(dim=1).sqrt() + second * x.abs().mean(dim=1)
        self.bound.copy_(torch.where(bound > 0, bound, x.abs().amax(dim=1)))


class PactQuantizer(Quantizer):
    """Learned bounds for activations; an L2 penalty on them is weight decay of ``lower`` and ``upper``.

    Args:
        bits: k.
        two_sided: learn a⁻ too; otherwise it is 0, for nonnegative activations.
        zero_aligned: whether zero is a level.
        bound: initial bounds.
        residual: the rounding error inside the bounds also moves them ("PACT+").
    """

    def __init__(
        self, bits: int, two_sided: bool = True, zero_aligned: bool = True, bound: float = 1.0, residual: bool = False
    ) -> None:
        super().__init__(bits, zero_aligned)
        self.residual = residual
        self.upper = nn.Parameter(torch.tensor([bound]))
        self.lower: nn.Parameter | None = nn.Parameter(torch.tensor([-bound])) if two_sided else None

    @torch.no_grad()
    def fit(self, x: torch.Tensor, number: int) -> None:
        """Moves the bounds to the mean, over tensors, of the bounds with the least squared error.

        Fractions of the largest and of the smallest value are tried alternately, twice, as the best bounds of both
        sides are unrelated (SiLU's small negative values must not be clipped). A large tensor is sampled.

        Args:
            x: any shape.
            number: of this tensor, from 1.
        """
        high = x.max().clamp_min(0).float()
        low = torch.zeros_like(high) if self.lower is None else x.min().clamp_max(0).float()
        x = x.flatten().float()
        if len(x) > FITTED_VALUES:
            x = x[torch.randint(len(x), (FITTED_VALUES,), generator=torch.Generator().manual_seed(0)).to(x.device)]

        def error(low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
            grid = low, high, self.levels, self.zero_aligned
            return (dequantize(quantize(x, *grid), *grid) - x).square().sum()

        highs, lows = ([fraction * bound for fraction in FITTED_FRACTIONS] for bound in (high, low))
        for _ in range(2):
            high = highs[int(torch.stack([error(low, candidate) for candidate in highs]).argmin())]
            low = lows[int(torch.stack([error(candidate, high) for candidate in lows]).argmin())]
        for bound, fitted in ((self.upper, high), (self.lower, low)):
            if bound is not None:
                bound.add_((fitted - bound) / number)

    @property
    def low(self) -> torch.Tensor:  # type: ignore[override]
        """(1,) a⁻, at most 0, so that zero remains a level."""
        return torch.zeros_like(self.upper) if self.lower is None else _clamped(self.lower, most=0.0)

    @property
    def high(self) -> torch.Tensor:  # type: ignore[override]
        """(1,) a⁺, above 0."""
        return _clamped(self.upper, least=SMALLEST_BOUND)


def _clamped(bound: torch.Tensor, least: float | None = None, most: float | None = None) -> torch.Tensor:
    """A bound within limits, with the gradient of the bound without limits."""
    return bound + (bound.clamp(least, most) - bound).detach()


class FixedQuantizer(Quantizer):
    """Bound-aware clipping (BAC): a bound that is known in advance and gets no gradient.

    Hidden states of an LSTM are within 1, as products of a sigmoid and a tanh; inputs of its layers are within
    1 / (1 - dropout), as dropout scales them.

    Args:
        bits: k.
        bound: a.
        zero_aligned: as for activations.
    """

    def __init__(self, bits: int, bound: float, zero_aligned: bool = True) -> None:
        super().__init__(bits, zero_aligned)
        self.bound = bound  # from the configuration, not a checkpoint

    @property
    def low(self) -> torch.Tensor:  # type: ignore[override]
        """(1,) -a."""
        return torch.tensor([-self.bound])

    @property
    def high(self) -> torch.Tensor:  # type: ignore[override]
        """(1,) a."""
        return torch.tensor([self.bound])


def quantize(x: torch.Tensor, low: torch.Tensor, high: torch.Tensor, levels: int, zero_aligned: bool) -> torch.Tensor:
    """Codes of a tensor, as integers of its dtype; bounds broadcast to its shape."""
    start, factor = code_line(low, high, levels, zero_aligned)
    # Relative to the value of code 0, as in the formula, so that ties are rounded to even codes.
    return ((x - start) * factor).round().clamp(0, levels - 1)


def code_line(
    low: torch.Tensor, high: torch.Tensor, levels: int, zero_aligned: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Start and factor of :func:`quantize`, which rounds (x - start) · factor."""
    start, factor = low, (levels - 1) / (high - low).clamp_min(_tiny(high))
    if zero_aligned:
        start = -_zero_code(low, high, levels, zero_aligned) * (high - low) / (levels - 1)
    return start, factor


def dequantize(
    codes: torch.Tensor, low: torch.Tensor, high: torch.Tensor, levels: int, zero_aligned: bool
) -> torch.Tensor:
    """Values of codes. Symmetric bounds are exact, and zero too if it is a level."""
    zero = _zero_code(low, high, levels, zero_aligned)
    return (codes - zero) * (high - low) / (levels - 1)


def _zero_code(low: torch.Tensor, high: torch.Tensor, levels: int, zero_aligned: bool) -> torch.Tensor:
    """The code of zero: an integer if zero is aligned."""
    zero = -low * (levels - 1) / (high - low).clamp_min(_tiny(high))
    return zero.round() if zero_aligned else zero


def _tiny(x: torch.Tensor) -> float:
    return math.sqrt(torch.finfo(x.dtype).tiny)


class _StraightThrough(torch.autograd.Function):
    """Quantized values whose gradient treats rounding as the identity.

    With z = (x - a⁻) / step of x (x / step if zero is aligned) and g the gradient of y, d x = g if a⁻ <= x <= a⁺
    (everywhere if the gradient is not clipped), d a⁺ = Σ g over x >= a⁺ and d a⁻ = Σ g over x <= a⁻; PACT+ adds
    (round z - z) / (n - 1) of values in between to d a⁺, and its negative to d a⁻.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        low: torch.Tensor,
        high: torch.Tensor,
        levels: int,
        zero_aligned: bool,
        clip_gradient: bool,
        residual: bool,
    ) -> torch.Tensor:
        codes = quantize(x, low, high, levels, zero_aligned)
        ctx.save_for_backward(x, low, high)
        ctx.settings = levels, zero_aligned, clip_gradient, residual
        return dequantize(codes, low, high, levels, zero_aligned).to(x.dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, low, high = ctx.saved_tensors
        levels, zero_aligned, clip_gradient, residual = ctx.settings
        above, below = x >= high, x <= low
        low_grad = high_grad = None
        if ctx.needs_input_grad[1] or ctx.needs_input_grad[2]:
            high_slope, low_slope = above.to(grad.dtype), below.to(grad.dtype)
            if residual:
                z = (x if zero_aligned else x - low) * (levels - 1) / (high - low)  # an integer offset changes nothing
                rest = ((z.round() - z) / (levels - 1)).masked_fill(above | below, 0.0)
                high_slope, low_slope = high_slope + rest, low_slope - rest
            low_grad = (grad * low_slope).sum(dim=1, keepdim=True).to(low.dtype)
            high_grad = (grad * high_slope).sum(dim=1, keepdim=True).to(high.dtype)
            inside = ~(above | below)
        else:
            inside = (x <= high) & (x >= low)
        return (grad * inside if clip_gradient else grad), low_grad, high_grad, None, None, None, None


def calibrated(quantizers: Sequence[Quantizer]) -> bool:
    """Whether every quantizer has bounds; a channel of zeros has none."""
    return all(bool((quantizer.high > quantizer.low).any()) for quantizer in quantizers)
