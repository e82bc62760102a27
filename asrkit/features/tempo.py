"""Tempo perturbation: faster or slower speech with the same pitch."""

from __future__ import annotations

import torch
from torch.nn import functional as F

WINDOW_S = 0.03
SEARCH_S = 0.015


def change_tempo(waveform: torch.Tensor, factor: float, sampling_rate_hz: int) -> torch.Tensor:
    """A waveform ``factor`` times as fast, by waveform similarity overlap-add (Verhelst and Roelands 1993, ICASSP).

    Windows of the input are added with 50% overlap. Each is taken near the position given by the factor, where it is
    most similar to the continuation of the previous window.

    Args:
        waveform: (N,) samples.
        factor: above 1 for faster speech.
        sampling_rate_hz: of the waveform.

    Returns:
        (round(N / factor),) samples.
    """
    hop, search = round(WINDOW_S * sampling_rate_hz / 2), round(SEARCH_S * sampling_rate_hz)
    size, length = 2 * hop, round(waveform.numel() / factor)
    number = length // hop + 2  # windows; the first half of the first lies before the output
    x = F.pad(waveform, (hop + search, round(number * hop * (factor + 1)) + size + 2 * search))
    window = torch.hann_window(size, dtype=x.dtype)
    out = x.new_zeros((number + 1) * hop)
    position = search
    out[:size] += window * x[position : position + size]
    for k in range(1, number):
        nominal = search + round(k * hop * factor)
        follows = x[position + hop : position + hop + size]
        region = x[nominal - search : nominal + search + size]
        position = nominal - search + _most_similar(region, follows)
        out[k * hop : k * hop + size] += window * x[position : position + size]
    return out[hop : hop + length]


def _most_similar(region: torch.Tensor, pattern: torch.Tensor) -> int:
    """The offset in ``region`` with the largest normalized correlation with ``pattern``."""
    size = pattern.numel()
    products = F.conv1d(region.view(1, 1, -1), pattern.view(1, 1, -1)).flatten()
    energies = F.pad(region.double().square().cumsum(0), (1, 0))
    norms = (energies[size:] - energies[:-size]).clamp_min(1e-10).sqrt()
    return int((products / norms).argmax())
