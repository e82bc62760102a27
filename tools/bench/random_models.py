"""Random weights that behave like a trained transducer where time is concerned: labels come at a natural rate."""

from __future__ import annotations

import torch

from asrkit.decoding.greedy import greedy_search
from asrkit.models.transducer import Transducer

SHARPNESS = 8.0
"""Of the output layer: symbols differ as clearly as those of a trained model, so that a beam finds competitors."""


def set_label_rate(model: Transducer, encoder_out: torch.Tensor, labels_per_frame: float) -> float:
    """Sets the bias of the blank so that greedy search emits so many labels per frame of ``encoder_out`` (B, T', D).

    Returns:
        The rate it came to.
    """
    lens = torch.full((encoder_out.shape[0],), encoder_out.shape[1], device=encoder_out.device)
    out = model.joiner.out
    low, high, rate = -50.0, 50.0, 0.0
    with torch.no_grad():
        out.weight.mul_(SHARPNESS)
        for _ in range(12):
            out.bias[0] = (low + high) / 2
            found = greedy_search(model, encoder_out, lens, frame_shift_s=0.04)
            rate = sum(len(h.tokens) for h in found) / int(lens.sum())
            low, high = (low, (low + high) / 2) if rate < labels_per_frame else ((low + high) / 2, high)
    return rate
