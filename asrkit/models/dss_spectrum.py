"""The filters that a DSSformer's state spaces can form, and what they have learned, layer by layer.

Saon et al. 2023 (arXiv 2302.14120, section 4) found frequencies that grow linearly with the index of the state,
with the same slope in every layer, and attenuations that differ between layers. Such a finding needs parameters that
could move: Adam moves one by at most about the sum of the learning rates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from asrkit.figures import figure
from asrkit.models.dss import DssKernel

TAPS = 7
"""Taps of the filters whose reach is reported."""
RIDGE = 1e-2
"""Penalty on squared output weights, so that filters with huge weights are out of reach."""
HORIZON = 200
"""Frames on each side in which a kernel may disturb the filter."""
GRID = 24
"""Steps between which the reach of a channel is interpolated."""


@dataclass(frozen=True)
class LayerSpectrum:
    """One layer's eigenvalues in order of frequency, and its channels."""

    attenuations: torch.Tensor
    """(N,) -Re λ."""
    frequencies: torch.Tensor
    """(N,) Im λ."""
    slope: float
    """Slope of the best-fitting line through the origin, frequency against index."""
    steps: torch.Tensor
    """(H,) Δ per frame."""
    reach: torch.Tensor
    """(H,) share of a local filter that a channel can form, see :func:`local_reach`."""


@dataclass(frozen=True)
class Moved:
    """The largest distances of a layer's parameters from their initial values, by kind."""

    log_step: float
    attenuation: float
    frequency: float
    weight: float


def dss_spectra(model: nn.Module) -> list[LayerSpectrum]:
    """The spectra of a model's DSS layers in order; empty if it has none."""
    spectra = []
    for kernel in _kernels(model):
        re, im = (part.detach().cpu() for part in kernel.eigenvalues())
        order = im.argsort()
        index = torch.arange(len(im), dtype=im.dtype)
        slope = (index @ im[order] / index.square().sum().clamp_min(1)).item()
        steps = kernel.log_step.detach().cpu().exp()
        bidirectional = kernel.weight.shape[1] == 2
        reach = local_reach(torch.complex(re, im), steps, bidirectional)
        spectra.append(LayerSpectrum(-re[order], im[order], slope, steps, reach))
    return spectra


def local_reach(eigenvalues: torch.Tensor, steps: torch.Tensor, bidirectional: bool = True) -> torch.Tensor:
    """Share of a seven-tap filter that a channel can form with output weights of moderate size.

    It is one minus the minimum of |f - K_w|² + ρ |w|² over the weights w, averaged over the unit impulses f of the
    taps. A channel with a step so small that all its N frequencies are far below the frame rate reaches almost nothing.

    Args:
        eigenvalues: complex (N,).
        steps: (H,) Δ per frame.
        bidirectional: whether the kernel looks ahead; otherwise the taps are the frame and earlier ones.

    Returns:
        (H,) between 0 and 1.
    """
    log_steps = steps.double().log()
    low, high = log_steps.min().item(), log_steps.max().item()
    grid = np.linspace(low, high, GRID if high - low > 1e-6 else 1)
    values = [_reach(eigenvalues.to(torch.complex128), float(np.exp(step)), bidirectional) for step in grid]
    return torch.from_numpy(np.interp(log_steps.numpy(), grid, values)).float()


def movements(before: nn.Module, after: nn.Module) -> list[Moved]:
    """The distances of each DSS layer of a model from the model before training."""
    moved = []
    for start, end in zip(_kernels(before), _kernels(after), strict=True):
        start_re, start_im = start.eigenvalues()
        end_re, end_im = end.eigenvalues()
        pairs = (
            (start.log_step, end.log_step),
            (start_re.abs().log(), end_re.abs().log()),
            (start_im, end_im),
            (start.weight, end.weight),
        )
        moved.append(Moved(*((b.detach().cpu() - a.detach().cpu()).abs().max().item() for a, b in pairs)))
    return moved


def spectrum_table(spectra: Sequence[LayerSpectrum], moved: Sequence[Moved] = (), could_move: float = 0.0) -> str:
    """A Markdown table with one row per layer.

    Args:
        spectra: of the trained model.
        moved: distances of its layers, if the initial values are known.
        could_move: approximate largest distance that training allowed.
    """
    head = ["layer", "Δ per frame: 10, 50, 90 %", f"{TAPS} taps in reach", "slope of Im λ", "-Re λ"]
    if moved:
        head += ["moved: log Δ", "log -Re λ", "Im λ", "W", "could move"]
    rows = [head, ["---"] * len(head)]
    for n, layer in enumerate(spectra):
        percent = torch.quantile(layer.steps, torch.tensor([0.1, 0.5, 0.9])).tolist()
        low, high = layer.attenuations.min().item(), layer.attenuations.max().item()
        row = [str(n + 1), ", ".join(f"{value:.3f}" for value in percent), f"{100 * layer.reach.mean().item():.0f} %"]
        row += [f"{layer.slope:.2f}", f"{low:.2f} – {high:.2f}"]
        if moved:
            row += [f"{getattr(moved[n], name):.2f}" for name in ("log_step", "attenuation", "frequency", "weight")]
            row.append(f"{could_move:.2f}")
        rows.append(row)
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def plot_dss_spectra(spectra: Sequence[LayerSpectrum], path: Path) -> None:
    """Draws attenuations and frequencies against the index of the state, and the channels' reach against their step."""
    with figure(path, 1, 3) as (left, middle, right):
        for number, layer in enumerate(spectra, 1):
            left.plot(layer.attenuations, label=f"layer {number}")
            middle.plot(layer.frequencies, label=f"layer {number}: slope {layer.slope:.2f}")
            order = layer.steps.argsort()
            right.semilogx(layer.steps[order], layer.reach[order], ".", label=f"layer {number}")
        for axes, title in ((left, "attenuation -Re λ"), (middle, "frequency Im λ")):
            axes.set_xlabel("state n")
            axes.set_ylabel(title)
        right.set_xlabel("step Δ per frame")
        right.set_ylabel(f"share of {TAPS} taps in reach")
        for axes in (left, middle, right):
            axes.legend(fontsize="small")


def _reach(eigenvalues: torch.Tensor, step: float, bidirectional: bool) -> float:
    frames = torch.arange(HORIZON, dtype=torch.float64)
    powers = ((torch.exp(eigenvalues * step) - 1) / (eigenvalues + 1e-12))[:, None]
    powers = powers * torch.exp(eigenvalues[:, None] * step * frames)
    causal = torch.cat([powers.real, -powers.imag])  # (2 N, L): a row for each real and imaginary weight
    zeros = torch.zeros_like(causal)
    basis = torch.cat([zeros, causal], dim=1)
    if bidirectional:
        basis = torch.cat([basis, torch.cat([causal.flip(1), zeros], dim=1)])
    first = HORIZON - TAPS // 2 if bidirectional else HORIZON
    filters = torch.zeros(TAPS, 2 * HORIZON, dtype=torch.float64)
    filters[torch.arange(TAPS), first + torch.arange(TAPS)] = 1.0
    gram = basis @ basis.T + RIDGE * torch.eye(len(basis), dtype=torch.float64)
    weights = torch.linalg.solve(gram, basis @ filters.T)
    errors = (weights.T @ basis - filters).square().sum(1) + RIDGE * weights.square().sum(0)
    return float(1.0 - errors.mean())


def _kernels(model: nn.Module) -> list[DssKernel]:
    return [module for module in model.modules() if isinstance(module, DssKernel)]
