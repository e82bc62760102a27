"""Random weights that behave like a trained transducer in timings: labels come at a natural rate."""

from __future__ import annotations

from collections.abc import Callable

import torch

from asrkit.decoding.greedy import greedy_search
from asrkit.models.transducer import Transducer

ENCODER, PREDICTOR, OUTPUT = 8.0, 4.0, 16.0
"""What the joiner's projections and its output are multiplied by: symbols differ as clearly, and as differently from
frame to frame, as those of a trained model, so that a beam finds competitors."""


def sharpen(model: Transducer) -> None:
    """Widens what the joiner makes of its inputs."""
    with torch.no_grad():
        model.joiner.encoder_proj.weight.mul_(ENCODER)
        model.joiner.predictor_proj.weight.mul_(PREDICTOR)
        model.joiner.out.weight.mul_(OUTPUT)


def set_label_rate(model: Transducer, measure: Callable[[], float], rate: float) -> float:
    """Sets the bias of the blank so that a search finds ``rate`` labels per frame.

    Args:
        model: the model to change.
        measure: labels per frame with the present bias.
        rate: labels per frame to reach.

    Returns:
        The rate reached.
    """
    low, high, tried = -20.0, 20.0, {}
    for _ in range(10):
        middle = (low + high) / 2
        with torch.no_grad():
            model.joiner.out.bias[0] = middle
        tried[middle] = measure()
        low, high = (low, middle) if tried[middle] < rate else (middle, high)
    best = min(tried, key=lambda bias: abs(tried[bias] - rate))
    with torch.no_grad():
        model.joiner.out.bias[0] = best
    return tried[best]


def greedy_rate(model: Transducer, encoder_out: torch.Tensor) -> float:
    """Labels per frame that greedy search finds in (B, T', D) without padding."""
    lens = torch.full((encoder_out.shape[0],), encoder_out.shape[1], device=encoder_out.device)
    found = greedy_search(model, encoder_out, lens, frame_shift_s=0.04)
    return sum(len(h.tokens) for h in found) / int(lens.sum())
