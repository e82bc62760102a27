"""From a cut to model input, in the one order that training, decoding and a shipped model share."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from lhotse.audio.backend import LibsndfileBackend, audio_backend
from lhotse.cut import Cut

from asrkit.errors import UserError
from asrkit.features.fbank import fbank
from asrkit.features.normalization import GLOBAL, MeanStd, mean_std

SPEED = "speed"

Augmentation = Callable[[torch.Tensor, torch.Generator], tuple[torch.Tensor, bool]]
"""Changes (T, F) features at random and says whether this utterance was chosen."""


def seeded_generator(*parts: int | str) -> torch.Generator:
    """A generator whose stream is a function of ``parts`` alone, such as (seed, epoch, utterance id)."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") & (2**63 - 1))


@dataclass(frozen=True)
class FeaturePipeline:
    """Fbank, normalization, augmentation."""

    sampling_rate_hz: int = 16000
    num_mel_bins: int = 80
    normalization: str = "global"
    statistics: dict[str, MeanStd] = field(default_factory=dict)
    augmentations: dict[str, Augmentation] = field(default_factory=dict)
    """Applied in this order, in training only."""

    @property
    def augmentation_names(self) -> tuple[str, ...]:
        """Everything that training counts the hits of."""
        return (SPEED, *self.augmentations)

    def raw(self, cut: Cut) -> torch.Tensor:
        """(T, F) log-Mel energies of a cut: the stored ones where there are any, computed ones elsewhere.

        Raises:
            UserError: audio that cannot be read, or is not as long as its manifest says.
        """
        if cut.has_features:
            return self._stored(cut)
        return fbank(load_audio(cut, self.sampling_rate_hz), self.sampling_rate_hz, self.num_mel_bins)

    def _stored(self, cut: Cut) -> torch.Tensor:
        if cut.num_features != self.num_mel_bins:
            raise UserError(
                f"the stored features of {cut.id} have {cut.num_features} bins but features.num_mel_bins is "
                f"{self.num_mel_bins}; run asrkit features --force"
            )
        try:
            return torch.from_numpy(cut.load_features())
        except (OSError, ValueError) as error:
            raise UserError(f"cannot read the stored features of {cut.id}; run asrkit features --force") from error

    def normalize(self, features: torch.Tensor, speaker: str | None) -> torch.Tensor:
        """(T, F) to (T, F). A speaker without statistics is normalized by the utterance's own."""
        if self.normalization == "none":
            return features
        if self.normalization == "global":
            return self.statistics[GLOBAL].apply(features)
        known = self.statistics.get(f"speaker:{speaker}")
        return (known or mean_std(features)).apply(features)

    def __call__(self, cut: Cut, seed: int = 0, epoch: int | None = None) -> tuple[torch.Tensor, list[str]]:
        """Model input of a cut.

        Args:
            cut: one utterance.
            seed: of the experiment.
            epoch: which presentation this is; None means no augmentation.

        Returns:
            (T, F) float32, and the names of the augmentations that were applied.
        """
        features = self.normalize(self.raw(cut), speaker_of(cut))
        applied = []
        if epoch is not None and cut.has_recording and cut.recording.transforms:
            applied.append(SPEED)  # a replica that the feature stage made
        if epoch is not None:
            generator = seeded_generator(seed, epoch, cut.id)
            for name, augmentation in self.augmentations.items():
                features, hit = augmentation(features, generator)
                if hit:
                    applied.append(name)
        return features, applied


def speaker_of(cut: Cut) -> str | None:
    """The speaker of a cut's first supervision."""
    return cut.supervisions[0].speaker if cut.supervisions else None


def load_audio(cut: Cut, sampling_rate_hz: int) -> torch.Tensor:
    """(N,) float32 samples of a cut's only channel.

    Raises:
        UserError: unreadable, truncated, of several channels or of another sampling rate.
    """
    if cut.sampling_rate != sampling_rate_hz:
        raise UserError(
            f"{cut.id} has {cut.sampling_rate} Hz but features.sampling_rate_hz is {sampling_rate_hz}; "
            "set it to the corpus' rate or resample the audio"
        )
    try:
        # By soundfile whatever the suffix; Lhotse's choice by suffix would need sph2pipe for Sphere files.
        with audio_backend(LibsndfileBackend()):
            samples = cut.load_audio()
    except Exception as error:  # lhotse raises a different class for each of its audio backends
        source = cut.recording.sources[0].source if cut.has_recording else "?"
        raise UserError(
            f"cannot read the audio of {cut.id} ({source}): {str(error).strip().splitlines()[0]}; "
            "the file may be truncated: run `asrkit check`"
        ) from error
    if samples.shape[0] != 1:
        raise UserError(f"{cut.id} has {samples.shape[0]} channels; split it into one recording a channel first")
    return torch.from_numpy(np.ascontiguousarray(samples[0]))
