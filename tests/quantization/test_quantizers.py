"""The numeric checks of the two papers' quantizers, and gradients against their definitions."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import nn

from asrkit.quantization.quantizers import (
    SAWB_COEFFICIENTS,
    FixedQuantizer,
    MaxQuantizer,
    PactQuantizer,
    Quantizer,
    SawbQuantizer,
    calibrated,
)

EVERY: list[Callable[[], Quantizer]] = [
    lambda: MaxQuantizer(4, True),
    lambda: MaxQuantizer(8, False, groups=4),
    lambda: SawbQuantizer(4),
    lambda: SawbQuantizer(4, zero_aligned=True, groups=4),
    lambda: SawbQuantizer(2, groups=8),
    lambda: PactQuantizer(4),
    lambda: PactQuantizer(3, two_sided=False, zero_aligned=False, residual=True),
    lambda: FixedQuantizer(4, 1.25),
]


@pytest.mark.parametrize(("bits", "zero_aligned", "expected"), [(4, False, 1.286114), (4, True, 1.292030)])
def test_sawb_of_five_weights(bits: int, zero_aligned: bool, expected: float) -> None:
    quantizer = SawbQuantizer(bits, zero_aligned)
    quantizer(torch.tensor([-1.0, -0.5, 0.0, 0.5, 1.0]))
    assert quantizer.bound.item() == pytest.approx(expected, abs=1e-6)


def test_sawb_of_distributions() -> None:
    """From moments: E[w²] and E|w| of a unit Gaussian, of a Laplace of unit deviation and of a uniform in [-1, 1]."""
    moments = {
        "gauss": (1.0, math.sqrt(2 / math.pi)),
        "laplace": (1.0, 1 / math.sqrt(2)),
        "uniform": (1 / 3, 0.5),
    }
    for (bits, zero_aligned), expected in {
        (4, False): {"gauss": 2.467, "laplace": 3.629, "uniform": 0.9208},
        (4, True): {"gauss": 2.436, "laplace": 3.529, "uniform": 0.9334},
        (2, False): {"gauss": 1.473},
    }.items():
        first, second = SAWB_COEFFICIENTS[bits, zero_aligned]
        for name, value in expected.items():
            square, absolute = moments[name]
            assert first * math.sqrt(square) + second * absolute == pytest.approx(value, abs=1e-3)


def test_sawb_is_near_the_least_squared_error() -> None:
    weights = torch.randn(200_000, generator=torch.Generator().manual_seed(0))
    for zero_aligned, best in ((False, 2.515), (True, 2.475)):
        quantizer = SawbQuantizer(4, zero_aligned)

        def error(quantizer: SawbQuantizer = quantizer) -> float:
            return float((quantizer(weights) - weights).square().mean())

        found = error()
        quantizer.eval()
        quantizer.bound.fill_(best)
        assert found < 1.03 * error()


def test_fixed_bounds_map_as_published() -> None:
    aligned, other = FixedQuantizer(4, 1.0), FixedQuantizer(4, 1.0, zero_aligned=False)
    assert other(torch.zeros(1)).abs().item() == pytest.approx(1 / 15)
    x = torch.tensor([0.0, 0.03, 0.08, 0.5, 1.0, -1.0, -1.2])
    found = aligned(x).tolist()
    assert found == pytest.approx([0.0, 0.0, 0.142857, 0.428571, 1.0, -1.0, -1.0], abs=1e-6)
    assert found[0] == 0.0 and found[4:] == [1.0, -1.0, -1.0]  # exactly
    assert aligned.scales()[0].item() == pytest.approx(1 / 7) and other.scales()[0].item() == pytest.approx(2 / 15)
    wide = FixedQuantizer(4, 1 / (1 - 0.2))
    assert wide.scales()[0].item() == pytest.approx(0.178571, abs=1e-6)
    assert len(wide(torch.linspace(-2, 2, 1000)).unique()) == 15


def test_pact_learns_from_what_lies_outside() -> None:
    quantizer = PactQuantizer(4)
    x = torch.tensor([-2.0, -1.0, -0.3, 0.0, 0.4, 1.0, 3.0], requires_grad=True)
    quantizer(x).sum().backward()
    assert quantizer.upper.grad is not None and quantizer.lower is not None and quantizer.lower.grad is not None
    assert x.grad is not None
    assert (quantizer.upper.grad.item(), quantizer.lower.grad.item()) == (2.0, 2.0)
    assert x.grad.tolist() == [0, 0, 1, 1, 1, 0, 0]
    one_sided = PactQuantizer(4, two_sided=False)
    y = torch.tensor([-0.5, 0.3, 1.0, 2.0], requires_grad=True)
    out = one_sided(y)
    assert out[0].item() == 0.0 and out[2:].tolist() == [1.0, 1.0]
    out.sum().backward()
    assert one_sided.upper.grad is not None and one_sided.upper.grad.item() == 2.0


def test_pact_plus_learns_from_the_rounding_too() -> None:
    quantizer = PactQuantizer(4, zero_aligned=False, residual=True).double()
    with torch.no_grad():
        quantizer.upper.fill_(1.5)
        assert quantizer.lower is not None
        quantizer.lower.fill_(-0.5)
    quantizer(torch.tensor([0.4], dtype=torch.float64)).sum().backward()  # z = 6.75
    assert quantizer.upper.grad is not None and quantizer.lower.grad is not None
    assert quantizer.upper.grad.item() == pytest.approx(0.016667, abs=1e-6)
    assert quantizer.lower.grad.item() == pytest.approx(-0.016667, abs=1e-6)


@pytest.mark.parametrize("zero_aligned", [False, True])
def test_pact_plus_is_the_derivative_of_its_surrogate(zero_aligned: bool) -> None:
    """With round z - z held as it is: y = a⁻ + (z + rest) step, by finite differences in the bounds and in x."""
    torch.manual_seed(0)
    quantizer = PactQuantizer(4, zero_aligned=zero_aligned, residual=True).double()
    steps = quantizer.levels - 1
    assert quantizer.lower is not None
    with torch.no_grad():
        quantizer.upper.fill_(1.3)
        quantizer.lower.fill_(-0.7)
    x = (torch.randn(50, dtype=torch.float64) * 1.2).requires_grad_()
    weight = torch.randn(50, dtype=torch.float64)
    (quantizer(x) * weight).sum().backward()
    with torch.no_grad():
        # Rounded on the grid on which zero lies.
        z = (x if zero_aligned else x + 0.7) * steps / 2.0
        rest = z.round() - z

        def surrogate(x: torch.Tensor, low: float, high: float) -> torch.Tensor:
            step = (high - low) / steps
            inside = low + ((x - low) / step + rest) * step
            y = torch.where(x >= high, torch.full_like(x, high), torch.where(x <= low, torch.full_like(x, low), inside))
            return (y * weight).sum()

        e = 1e-6
        by_high = (surrogate(x, -0.7, 1.3 + e) - surrogate(x, -0.7, 1.3 - e)) / (2 * e)
        by_low = (surrogate(x, -0.7 + e, 1.3) - surrogate(x, -0.7 - e, 1.3)) / (2 * e)
        by_x = [
            (surrogate(x + e * unit, -0.7, 1.3) - surrogate(x - e * unit, -0.7, 1.3)) / (2 * e)
            for unit in torch.eye(50, dtype=torch.float64)
        ]
    assert quantizer.upper.grad is not None and quantizer.lower.grad is not None and x.grad is not None
    assert quantizer.upper.grad.item() == pytest.approx(by_high.item(), abs=1e-6)
    assert quantizer.lower.grad.item() == pytest.approx(by_low.item(), abs=1e-6)
    assert torch.allclose(x.grad, torch.stack(by_x), atol=1e-6)


@pytest.mark.parametrize("make", EVERY)
def test_what_holds_for_every_quantizer(make: Callable[[], Quantizer]) -> None:
    torch.manual_seed(0)
    quantizer = make()
    x = torch.randn(8, 50)
    if isinstance(quantizer, PactQuantizer) and quantizer.lower is None:
        x = x.abs()
    quantizer(x)
    quantizer.eval()
    assert calibrated([quantizer])
    low, high = quantizer.low.clone(), quantizer.high.clone()
    y = quantizer(x)
    assert torch.equal(quantizer(3 * x) * 0, y * 0) and torch.equal(quantizer.low, low)  # bounds stay as they are
    assert torch.equal(quantizer(y), y)  # quantized values are their own
    order = x.view(quantizer.groups, -1).argsort(dim=1)
    assert (y.view(quantizer.groups, -1).gather(1, order).diff(dim=1) >= 0).all()
    for group in y.view(quantizer.groups, -1):
        assert len(group.unique()) <= quantizer.levels
    if quantizer.zero_aligned:
        assert torch.equal(quantizer(torch.zeros_like(x)), torch.zeros_like(x))
    if torch.equal(low, -high) and quantizer.zero_aligned:
        assert torch.equal(quantizer(-x), -y)
    # The codes are the values, and what an integer engine computes with.
    step, zero = quantizer.scales()
    codes = quantizer.codes(x)
    assert codes.min() >= 0 and codes.max() < quantizer.levels
    values = step[:, None] * (codes.view(quantizer.groups, -1) - zero[:, None])
    assert torch.allclose(values.view(8, 50), y, atol=1e-6)


def test_groups_have_bounds_of_their_own() -> None:
    gates = torch.randn(8, 5) * torch.tensor([1.0, 2.0, 4.0, 8.0]).repeat_interleave(2)[:, None]
    together, by_gate, by_row = (SawbQuantizer(4, groups=groups) for groups in (1, 4, 8))
    for quantizer in (together, by_gate, by_row):
        quantizer(gates)
    assert torch.equal(by_gate.bound[1], _alone(gates[2:4])) and torch.equal(by_row.bound[5], _alone(gates[5:6]))
    errors = [(quantizer(gates) - gates).square().mean() for quantizer in (together, by_gate)]
    assert errors[1] < errors[0]


def _alone(weights: torch.Tensor) -> torch.Tensor:
    quantizer = SawbQuantizer(4)
    quantizer(weights)
    return quantizer.bound[0]


def test_gradients_pass_or_stop_at_the_bound() -> None:
    weights = torch.tensor([-9.0, -0.5, 0.2, 0.5, 0.1, 9.0])
    for clip, expected in ((False, [1.0] * 6), (True, [0.0, 1.0, 1.0, 1.0, 1.0, 0.0])):
        quantizer = SawbQuantizer(4, clip_gradient=clip).eval()
        quantizer.bound.fill_(1.0)
        w = weights.clone().requires_grad_()
        quantizer(w).sum().backward()
        assert w.grad is not None and w.grad.tolist() == expected
    fixed = FixedQuantizer(4, 1.0)
    assert not list(fixed.parameters())
    w = weights.clone().requires_grad_()
    fixed(w).sum().backward()
    assert w.grad is not None and w.grad.tolist() == [0.0, 1.0, 1.0, 1.0, 1.0, 0.0]


def test_a_weight_without_spread_has_a_bound() -> None:
    quantizer = SawbQuantizer(4)
    quantizer(torch.full((10,), 0.3))  # the formula gives a negative one
    assert quantizer.bound.item() == pytest.approx(0.3)


def test_activations_are_clipped_at_a_running_maximum() -> None:
    quantizer = MaxQuantizer(8, True, momentum=0.1)
    quantizer(torch.tensor([2.0, -1.0]))
    assert quantizer.bound.item() == 2.0
    assert quantizer(torch.tensor([4.0])).item() == 4.0  # while training, at its own maximum
    assert quantizer.bound.item() == pytest.approx(2.2)
    for nothing in (0.0, math.inf, math.nan):
        quantizer(torch.tensor([nothing]))
        assert quantizer.bound.item() == pytest.approx(2.2)
    quantizer.eval()
    assert quantizer(torch.tensor([9.0])).item() == pytest.approx(2.2)
    loaded = MaxQuantizer(8, True, momentum=0.1)
    loaded.load_state_dict(quantizer.state_dict())
    assert loaded.eval()(torch.tensor([9.0])).item() == pytest.approx(2.2)


def test_fewer_bits_lose_more() -> None:
    weights = torch.randn(1000, generator=torch.Generator().manual_seed(1))
    errors = []
    for bits in (8, 4, 3, 2):
        quantizer = SawbQuantizer(bits)
        errors.append(float((quantizer(weights) - weights).square().mean()))
    assert errors == sorted(errors)
    with pytest.raises(ValueError, match="bits must be one of"):
        FixedQuantizer(5, 1.0)
    with pytest.raises(ValueError, match="no SAWB coefficients for 7 levels"):
        SawbQuantizer(3, zero_aligned=True)


def test_half_precision_inputs_keep_their_type() -> None:
    quantizer = nn.Sequential(FixedQuantizer(4, 1.0))
    assert quantizer(torch.randn(3, 4).bfloat16()).dtype == torch.bfloat16


def test_a_tensor_may_pass_twice_before_the_gradient() -> None:
    for quantizer in (MaxQuantizer(8, True, momentum=0.1), SawbQuantizer(4)):
        first, second = (torch.randn(6, generator=torch.Generator().manual_seed(n)).requires_grad_() for n in (0, 1))
        (quantizer(first) + 2 * quantizer(second)).sum().backward()
        assert first.grad is not None and first.grad.tolist() == [1.0] * 6
        assert second.grad is not None and second.grad.tolist() == [2.0] * 6


def test_learned_bounds_never_cross_zero() -> None:
    quantizer = PactQuantizer(4)
    assert quantizer.lower is not None
    with torch.no_grad():
        quantizer.lower.fill_(0.2)
    x = torch.tensor([-3.0, 0.0, 0.4, 3.0])
    out = quantizer(x)
    assert out[:2].tolist() == [0.0, 0.0] and out[3].item() == 1.0
    out.sum().backward()
    assert quantizer.lower.grad is not None and quantizer.lower.grad.item() == 2.0  # as without limits
    with torch.no_grad():
        quantizer.upper.fill_(-0.1)
    assert quantizer(x).abs().max() <= 1e-6


def test_a_channel_of_zeros_stays_one() -> None:
    weights = torch.stack([torch.zeros(4), torch.arange(4.0)])
    quantizer = MaxQuantizer(8, True, groups=2)
    out = quantizer(weights)
    assert torch.equal(out[0], weights[0]) and calibrated([quantizer])


def test_a_value_takes_the_nearest_level_between_uneven_bounds() -> None:
    quantizer = PactQuantizer(4)
    assert quantizer.lower is not None
    with torch.no_grad():
        quantizer.upper.fill_(2.3)
        quantizer.lower.fill_(-0.6)  # zero is level 3 of 15, so the levels end at -0.62 and 2.28
        step = 2.9 / 14
        levels = torch.arange(-3, 12) * step
        x = torch.linspace(-1, 3, 401)
        nearest = levels[(x[:, None] - levels).abs().argmin(1)]
        assert torch.allclose(quantizer(x), nearest, atol=1e-6)
