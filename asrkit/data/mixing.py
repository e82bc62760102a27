"""Epochs of several weighted training sets."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from asrkit.randomness import seeded_generator


def mix_sets(sources: np.ndarray, weights: Sequence[float], seed: int, epoch: int) -> np.ndarray:
    """Numbers of the utterances that an epoch presents, each as often as the weight of its set.

    The fractional part of a weight is the share of the set drawn without replacement, redrawn each epoch.

    Args:
        sources: (N,) set number of each utterance.
        weights: by set number.
        seed: of the experiment.
        epoch: from 1.
    """
    chosen: list[np.ndarray] = []
    for number, weight in enumerate(weights):
        members = np.flatnonzero(sources == number)
        copies, rest = divmod(weight, 1.0)
        chosen += [members] * int(copies)
        generator = seeded_generator("mix", seed, epoch, number)
        drawn = torch.randperm(len(members), generator=generator)[: round(rest * len(members))]
        chosen.append(members[drawn.numpy()])
    return np.concatenate(chosen)
