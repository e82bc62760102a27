"""Sequence noise injection: another utterance's spectrum, scaled down, is added (Saon et al. 2019, ICASSP).

Settings of Saon et al. 2021 (arXiv 2103.09935): probability 0.8, scale 0.4, an utterance of similar length.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from lhotse.cut import Cut

from asrkit.errors import UserError
from asrkit.features.augmentation import Presentation, chosen

NEIGHBOURS = 100
"""The other utterance is among this many nearest in duration."""


class SequenceNoise:
    """Adds ``scale`` times the features of a random training utterance of similar length.

    Args:
        cuts: the training utterances.
        durations_s: (N,) their durations.
        features: computes normalized (T, F) features of an utterance.
        probability: share of the utterances that are changed.
        scale: factor of the added features.

    Raises:
        UserError: fewer than two utterances.
    """

    def __init__(
        self,
        cuts: Sequence[Cut],
        durations_s: np.ndarray,
        features: Callable[[Cut], torch.Tensor],
        probability: float,
        scale: float,
    ) -> None:
        if len(cuts) < 2:
            raise UserError("sequence_noise needs two training utterances at least")
        self.cuts = cuts
        self.by_length = np.argsort(durations_s, kind="stable")
        """(N,) utterance numbers, shortest first."""
        self.durations_s = durations_s[self.by_length]
        self.features = features
        self.probability = probability
        self.scale = scale

    def __call__(self, features: torch.Tensor, presentation: Presentation) -> tuple[torch.Tensor, bool]:
        """(T, F) to (T, F), and whether the utterance was chosen."""
        if not chosen(self.probability, presentation.generator):
            return features, False
        other = self.features(self._similar(presentation))
        frames = min(features.shape[0], other.shape[0])
        noisy = features.clone()
        noisy[:frames] += self.scale * other[:frames]
        return noisy, True

    def _similar(self, presentation: Presentation) -> Cut:
        rank = int(np.searchsorted(self.durations_s, presentation.cut.duration))
        first = max(0, min(rank - NEIGHBOURS // 2, len(self.cuts) - NEIGHBOURS))
        candidates = self.by_length[first : first + NEIGHBOURS + 1]
        while True:  # another utterance exists
            drawn = int(torch.randint(len(candidates), (), generator=presentation.generator))
            if (other := self.cuts[int(candidates[drawn])]).id != presentation.cut.id:
                return other
