from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from asrkit.bundle.build import build_encoder, build_transducer
from asrkit.config_files import config_from_dict
from asrkit.errors import UserError
from asrkit.models.convolution import DepthwiseConv
from asrkit.models.dss import DssKernel, DssLayer, convolve, fast_length, vandermonde
from asrkit.models.dss_init import INITS, initial_lambda, skew_hippo_frequencies


def kernel_of(form: str, eigenvalues: list[complex], weights: list[float], step: float, length: int) -> DssKernel:
    """A causal one-channel system with stated parameters."""
    kernel = DssKernel(1, len(eigenvalues), "linear", form, False, length).double()
    values = torch.tensor(eigenvalues, dtype=torch.complex128)
    with torch.no_grad():
        kernel.lambda_re.copy_(torch.log(-values.real) if form == "exp" else values.real)
        kernel.lambda_im.copy_(values.imag)
        kernel.log_step.fill_(math.log(step))
        kernel.weight[0] = torch.tensor(weights)
        kernel.weight[1] = 0.0
    return kernel


@pytest.mark.parametrize(
    ("form", "eigenvalues", "expected"),
    [
        ("exp", [-0.5], [0.09754115, 0.09278401, 0.08825888]),
        ("exp", [-1, -1 + 1j], [0.19017059, 0.17122168, 0.15338755, 0.13671477]),
        ("softmax", [-1, -1 + 1j], [-0.45241036, -0.39742097, -0.34756874, -0.30259993]),
        ("exp", [-0.5 + math.pi * 1j], [0.09596445, 0.0, 0.0, 0.03805563]),
    ],
)
def test_kernels_have_the_values_of_the_formulas(form: str, eigenvalues: list[complex], expected: list[float]) -> None:
    length = len(expected)
    kernel = kernel_of(form, eigenvalues, [1.0] * len(eigenvalues), 0.1, length)(length)[0, 0]
    assert kernel[0].item() == pytest.approx(expected[0], abs=1e-6)
    assert kernel[-1].item() == pytest.approx(expected[-1], abs=1e-6)
    lam = torch.tensor(eigenvalues, dtype=torch.complex128)
    powers = torch.exp(lam[:, None] * 0.1 * torch.arange(length))
    scale = torch.expm1(lam * 0.1) / lam if form == "exp" else 1 / lam / powers.sum(1)
    assert torch.allclose(kernel, (scale[:, None] * powers).sum(0).real, atol=1e-6)


@pytest.mark.parametrize("eigenvalues", [[-0.3 + 2j, -1 + 5j], [0.4 + 1j, -0.2 + 3j], [0.7 - 2j, 0.1 + 0.5j]])
@pytest.mark.parametrize("length", [7, 40])
def test_softmax_form_is_the_softmax_also_for_growing_exponentials(eigenvalues: list[complex], length: int) -> None:
    kernel = kernel_of("softmax", eigenvalues, [1.0, -2.0], 0.1, length)(length)[0, 0]
    lam = torch.tensor(eigenvalues, dtype=torch.complex128)
    rows = torch.exp(lam[:, None] * 0.1 * torch.arange(length))
    rows = rows / rows.sum(1, keepdim=True)
    weights = torch.tensor([1.0, -2.0], dtype=torch.complex128)
    assert torch.allclose(kernel, ((weights / lam)[:, None] * rows).sum(0).real, atol=1e-5)
    assert kernel.sum().item() == pytest.approx((weights / lam).sum().real.item(), abs=1e-5)


def test_exp_form_sums_to_minus_w_over_lambda() -> None:
    kernel = kernel_of("exp", [-0.5 + 3j, -1 + 1j], [1.5, -0.5], 0.1, 4)(2000)[0, 0]
    lam = torch.tensor([-0.5 + 3j, -1 + 1j], dtype=torch.complex128)
    expected = -(torch.tensor([1.5, -0.5], dtype=torch.complex128) / lam).sum().real.item()
    assert kernel.sum().item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("length", [1, 2, 31, 100])
@pytest.mark.parametrize("directions", [1, 2])
def test_vandermonde_is_the_plain_sum(length: int, directions: int) -> None:
    torch.manual_seed(0)
    coefficient = torch.randn(directions, 3, 5, dtype=torch.complex128)
    exponent = torch.complex(-torch.rand(3, 5).double(), torch.randn(3, 5).double())
    expected = (coefficient[..., None] * torch.exp(exponent[..., None] * torch.arange(length))).sum(2).real
    assert torch.allclose(vandermonde(coefficient, exponent, length), expected, atol=1e-12)


@pytest.mark.parametrize("form", ["exp", "softmax"])
def test_kernel_gradients(form: str) -> None:
    torch.manual_seed(0)
    kernel = DssKernel(2, 3, "exp_random", form, True, 9).double()
    names = [name for name, _ in kernel.named_parameters()]
    parameters = tuple(p.detach().clone().requires_grad_() for p in kernel.parameters())

    def run(*values: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(kernel, dict(zip(names, values, strict=True)), (9,))

    assert torch.autograd.gradcheck(run, parameters)


def test_recurrence_is_the_convolution() -> None:
    torch.manual_seed(0)
    layer = DssLayer(3, 4, bidirectional=False).double()
    x = torch.randn(2, 50, 3, dtype=torch.float64)
    whole = layer(x)
    state = layer.initial_state(2).to(torch.complex128)
    for t in range(50):
        out, state = layer.step(x[:, t], state)
        assert torch.allclose(out, whole[:, t], atol=1e-10)


def test_impulse_meets_both_kernels_and_nothing_wraps() -> None:
    torch.manual_seed(0)
    times, at = 20, 8
    kernel = torch.randn(2, 1, times, dtype=torch.float64)
    x = torch.zeros(1, times, 1, dtype=torch.float64)
    x[0, at] = 1.0
    y = convolve(x, kernel)[0, :, 0]
    for t in range(times):
        expected = kernel[0, 0, t - at] if t >= at else kernel[1, 0, at - t - 1]
        assert y[t].item() == pytest.approx(expected.item(), abs=1e-12)


@pytest.mark.parametrize("directions", [1, 2])
def test_gradients_of_the_convolution(directions: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 9, 2, dtype=torch.float64, requires_grad=True)
    kernel = torch.randn(directions, 2, 7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(convolve, (x, kernel))


@pytest.mark.parametrize(("form", "kernel_length", "local_kernel"), [("exp", 0, 0), ("softmax", 24, 0), ("exp", 0, 5)])
def test_layer_ignores_padding(form: str, kernel_length: int, local_kernel: int) -> None:
    torch.manual_seed(0)
    layer = DssLayer(4, 6, form=form, kernel_length=kernel_length, local_kernel=local_kernel)
    x = torch.randn(1, 30, 4)
    padded = F.pad(x, (0, 0, 0, 17))
    assert (layer(padded)[:, :30] - layer(x)).abs().max() < 1e-5


def test_filter_runs_in_float32_under_autocast() -> None:
    torch.manual_seed(0)
    layer, x = DssLayer(4, 6), torch.randn(1, 30, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = layer(x)
    assert (low.float() - layer(x)).abs().max() < 0.05


def test_skew_hippo_frequencies_are_known() -> None:
    assert skew_hippo_frequencies(1).tolist() == pytest.approx([math.sqrt(3) / 2])
    assert skew_hippo_frequencies(2).tolist() == pytest.approx([4.60329301, 0.55650112])
    assert skew_hippo_frequencies(4).tolist() == pytest.approx([19.85741037, 5.35420852, 1.95779415, 0.42748871])
    large = skew_hippo_frequencies(96)
    assert large[:3].tolist() == pytest.approx([11733.652, 3909.821, 2344.218], rel=1e-6)
    assert large[-1].item() == pytest.approx(0.2213271, rel=1e-6)


def test_every_init_decays_and_starts_as_stated() -> None:
    for init in INITS:
        found = initial_lambda(init, 96)
        assert found.shape == (96,) and (found.real < 0).all() and (found.imag >= 0).all()
    assert torch.equal(initial_lambda("linear", 96), torch.complex(-torch.ones(96), torch.arange(96.0)))
    assert torch.allclose(initial_lambda("s4d_lin", 4).imag, math.pi * torch.arange(4.0))
    assert initial_lambda("s4d_inv", 96)[0].imag.item() == pytest.approx(192 / math.pi * 191, rel=1e-6)
    with pytest.raises(ValueError, match="init must be one of"):
        initial_lambda("random", 4)


def test_steps_are_log_uniform_and_sizes_are_the_papers() -> None:
    torch.manual_seed(0)
    layer = DssLayer(768, 96)
    steps = layer.kernel.log_step.exp()
    assert steps.min() >= 1e-3 and steps.max() <= 1e-1 and 0.007 < steps.median() < 0.014
    assert layer.kernel.lambda_im.shape == (96,)  # tied over the channels
    assert sum(p.numel() for p in layer.parameters()) == 1_477_824


def test_fast_lengths() -> None:
    for least in (1, 2, 7, 11, 500, 2001):
        size = fast_length(least)
        smaller = [n for n in range(least, size) if n % 2 == 0 and max(_prime_factors(n)) <= 5]
        assert size >= least and size % 2 == 0 and max(_prime_factors(size)) <= 5 and not smaller


def _prime_factors(n: int) -> list[int]:
    return [p for p in range(2, n + 1) if n % p == 0 and all(p % q for q in range(2, p))]


def test_sees_further_than_a_depthwise_convolution() -> None:
    """A channel delayed by 60 frames: out of reach of a kernel of 31, not of a state space."""
    errors = {}
    for name in ("dss", "depthwise"):
        torch.manual_seed(0)
        kernel = DssKernel(8, 32, "linear", "exp", False)
        model: nn.Module = kernel if name == "dss" else DepthwiseConv(8, 31)
        read = nn.Linear(8, 1)
        optimizer = torch.optim.Adam([*model.parameters(), *read.parameters()], lr=1e-2)
        for _ in range(200):
            x = torch.randn(8, 160, 1)
            wide = x.expand(-1, -1, 8)
            filtered = convolve(wide, kernel(160)) if name == "dss" else model(wide)
            loss = F.mse_loss(read(filtered)[:, 60:], x[:, :-60])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        errors[name] = loss.item()
    assert errors["depthwise"] > 0.9 and errors["dss"] < 0.6, errors


def test_steps_and_weights_start_where_the_settings_say() -> None:
    torch.manual_seed(0)
    kernel = DssKernel(4000, 8, "linear", "exp", True, steps=(1e-2, 1.0), weight_scale=0.2)
    steps = kernel.log_step.exp()
    assert steps.min() >= 1e-2 and steps.max() <= 1.0
    assert steps.median().item() == pytest.approx(0.1, rel=0.1)  # log-uniform
    assert kernel.weight.std().item() == pytest.approx(0.2, rel=0.02)


def test_steps_per_second_survive_another_frame_rate() -> None:
    found = []
    for subsampling in (4, 8):
        encoder = {
            "type": "dssformer",
            "subsampling": subsampling,
            "dss": {"min_step_per_s": 1.0, "max_step_per_s": 1.0},
        }
        small = {"num_layers": 1, "d_model": 8, "num_heads": 2, "subsampling_channels": 4}
        config = config_from_dict({"model": {"encoder": encoder | {"conformer": small}}}, "tests")
        kernel = build_encoder(config).get_submodule("blocks.0.conv.temporal.kernel")
        found.append(kernel.get_parameter("log_step").exp().unique().item())
    assert found == pytest.approx([0.04, 0.08])
    config.model.encoder.dss.max_step_per_s = 0.5
    with pytest.raises(UserError, match="min_step_per_s is above max_step_per_s"):
        build_transducer(config, 5)


def test_a_local_convolution_takes_the_place_of_the_shortcut() -> None:
    torch.manual_seed(0)
    layer = DssLayer(6, state_dim=4, local_kernel=3).double()
    x = torch.randn(2, 20, 6).double()
    with torch.no_grad():
        layer.kernel.weight.zero_()  # the convolution alone is left
        assert layer.local is not None
        expected = F.glu(layer.out(F.gelu(layer.local(x))), dim=-1)
        assert torch.allclose(layer(x), expected)
    with pytest.raises(ValueError, match="sees future frames"):
        layer.step(x[:, 0], layer.initial_state(2))


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("form", ["exp", "softmax"])
def test_cuda_gives_the_kernel_of_the_cpu(form: str) -> None:
    kernel = kernel_of(form, [-0.3 + 2j, -1 + 5j], [0.5, -1.0], 0.1, 40)
    expected = kernel(40)
    assert torch.allclose(kernel.cuda()(40).cpu(), expected, atol=1e-5)
