"""What the state spaces of a trained DSSformer have learned: attenuations and frequencies by layer.

Saon et al. 2023 (arXiv 2302.14120, section 4) found frequencies that grow linearly with the index of the state,
with the same slope in every layer, and attenuations that differ from layer to layer.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from asrkit.figures import figure
from asrkit.models.dss import DssKernel


@dataclass(frozen=True)
class LayerSpectrum:
    """One layer's eigenvalues in order of frequency."""

    attenuations: torch.Tensor
    """(N,) -Re λ."""
    frequencies: torch.Tensor
    """(N,) Im λ."""
    slope: float
    """Of the line through the origin that fits frequency against index best."""


def dss_spectra(model: nn.Module) -> list[LayerSpectrum]:
    """The spectra of a model's DSS layers, first layer first; none for a model without."""
    spectra = []
    for module in model.modules():
        if isinstance(module, DssKernel):
            re, im = (part.detach().cpu() for part in module.eigenvalues())
            order = im.argsort()
            index = torch.arange(len(im), dtype=im.dtype)
            slope = (index @ im[order] / index.square().sum().clamp_min(1)).item()
            spectra.append(LayerSpectrum(-re[order], im[order], slope))
    return spectra


def plot_dss_spectra(spectra: list[LayerSpectrum], path: Path) -> None:
    """Draws attenuations and frequencies against the index of the state, a line a layer."""
    with figure(path, 1, 2) as (left, right):
        for number, layer in enumerate(spectra, 1):
            left.plot(layer.attenuations, label=f"layer {number}")
            right.plot(layer.frequencies, label=f"layer {number}: slope {layer.slope:.2f}")
        for axes, title in ((left, "attenuation -Re λ"), (right, "frequency Im λ")):
            axes.set_xlabel("state n")
            axes.set_ylabel(title)
            axes.legend(fontsize="small")
