"""From a cut to model input, in the same order in training, decoding and shipped models."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from lhotse.cut import Cut

from asrkit.errors import UserError
from asrkit.features.audio_files import any_audio, resample
from asrkit.features.augmentation import Augmentation, Presentation
from asrkit.features.fbank import FRAME_SHIFT_S, fbank
from asrkit.features.normalization import GLOBAL, MeanStd, mean_std
from asrkit.features.stacking import add_deltas, stack_frames
from asrkit.randomness import seeded_generator

SPEED, TEMPO = "speed", "tempo"


@dataclass(frozen=True)
class FeaturePipeline:
    """Fbank, normalization, augmentation, deltas, stacking and speaker vector, in this order."""

    sampling_rate_hz: int = 16000
    num_mel_bins: int = 80
    normalization: str = "global"
    """``none``, ``global``, ``speaker`` or ``side`` (of a conversation)."""
    statistics: dict[str, MeanStd] = field(default_factory=dict)
    augmentations: dict[str, Augmentation] = field(default_factory=dict)
    """Applied in this order, in training only, to normalized log-Mel frames."""
    deltas: bool = False
    stacking: int = 1
    """Log-Mel frames joined into one."""
    speaker_vectors: dict[str, torch.Tensor] = field(default_factory=dict)
    """Appended to each frame, by speaker; none if empty."""
    frames_per_label: int = 1
    """Log-Mel frames per encoder frame; an utterance needs this many for each of its labels."""

    @property
    def augmentation_names(self) -> tuple[str, ...]:
        """All augmentations that training counts."""
        return (SPEED, TEMPO, *self.augmentations)

    @property
    def frame_shift_s(self) -> float:
        """Seconds between the frames that the model sees."""
        return FRAME_SHIFT_S * self.stacking

    def raw(self, cut: Cut) -> torch.Tensor:
        """(T, F) log-Mel energies of a cut, stored or else computed.

        Raises:
            UserError: the audio cannot be read, or is shorter than its manifest says.
        """
        if cut.has_features:
            features = self._load_stored(cut)
        else:
            features = fbank(load_audio(cut, self.sampling_rate_hz), self.sampling_rate_hz, self.num_mel_bins)
        if not torch.isfinite(features).all():
            raise UserError(f"the features of {cut.id} are not finite; run `asrkit check` on its audio")
        return features

    def _load_stored(self, cut: Cut) -> torch.Tensor:
        if cut.num_features != self.num_mel_bins:
            raise UserError(
                f"the stored features of {cut.id} have {cut.num_features} bins but features.num_mel_bins is "
                f"{self.num_mel_bins}; run asrkit features --force"
            )
        try:
            return torch.from_numpy(cut.load_features())
        except (OSError, ValueError) as error:
            raise UserError(f"cannot read the stored features of {cut.id}; run asrkit features --force") from error

    def normalize(self, features: torch.Tensor, group: str | None) -> torch.Tensor:
        """(T, F) to (T, F). Without statistics of the speaker or side, those of the utterance are used."""
        if self.normalization == "none":
            return features
        if self.normalization == "global":
            return self.statistics[GLOBAL].apply(features)
        statistics = self.statistics.get(f"{self.normalization}:{group}")
        return (statistics or mean_std(features)).apply(features)

    def normalized(self, cut: Cut) -> torch.Tensor:
        """(T, F) log-Mel energies of a cut after normalization."""
        return self.normalize(self.raw(cut), side_of(cut) if self.normalization == "side" else speaker_of(cut))

    def finish(self, features: torch.Tensor, speaker: str | None, part: slice = slice(None)) -> torch.Tensor:
        """Normalized (T, F) log-Mel frames to model input: deltas, stacking, speaker vector.

        Args:
            features: the frames.
            speaker: their speaker.
            part: the frames to keep; the others are context for the deltas.

        Raises:
            UserError: the speaker has no vector.
        """
        if self.deltas:
            features = add_deltas(features)
        features = features[part]
        if self.stacking > 1:
            features = stack_frames(features, self.stacking)
        if not self.speaker_vectors:
            return features
        if speaker not in self.speaker_vectors:
            raise UserError(f"speaker '{speaker}' has no vector in features.speaker_vectors; add it to that file")
        return torch.cat([features, self.speaker_vectors[speaker].expand(features.shape[0], -1)], dim=1)

    def __call__(
        self, cut: Cut, seed: int = 0, epoch: int | None = None, num_labels: int = 0, repeat: int = 0
    ) -> tuple[torch.Tensor, list[str]]:
        """Model input of a cut.

        Args:
            cut: one utterance.
            seed: of the experiment.
            epoch: from 1; None means no augmentation.
            num_labels: number of labels that the augmented utterance must fit.
            repeat: number of the presentation in the epoch, from 0.

        Returns:
            (T, F) float32, and the names of the augmentations that were applied.
        """
        features = self.normalized(cut)
        applied = []
        if epoch is not None:
            applied += replica_of(cut)
            key = (seed, epoch, cut.id, repeat) if repeat else (seed, epoch, cut.id)
            presentation = Presentation(cut, epoch, num_labels * self.frames_per_label, seeded_generator(*key))
            for name, augmentation in self.augmentations.items():
                features, hit = augmentation(features, presentation)
                if hit:
                    applied.append(name)
        return self.finish(features, speaker_of(cut)), applied


def speaker_of(cut: Cut) -> str | None:
    """The speaker of a cut's first supervision."""
    return cut.supervisions[0].speaker if cut.supervisions else None


def side_of(cut: Cut) -> str:
    """The side of a conversation: the custom field ``side`` of the supervision, or recording and channel."""
    custom = cut.supervisions[0].custom if cut.supervisions else None
    return str((custom or {}).get("side") or f"{cut.recording_id}-{cut.channel}")


def replica_of(cut: Cut) -> list[str]:
    """``speed`` or ``tempo`` if this cut is such a replica of the feature stage."""
    if cut.has_custom(TEMPO):
        return [TEMPO]
    return [SPEED] if cut.has_recording and cut.recording.transforms else []


def load_audio(cut: Cut, sampling_rate_hz: int) -> torch.Tensor:
    """(N,) float32 samples of a cut at a sampling rate; multiple channels are mixed.

    Raises:
        UserError: the audio is unreadable or truncated.
    """
    try:
        with any_audio():
            samples = cut.load_audio()
    except Exception as error:  # the class depends on Lhotse's audio backend
        source = cut.recording.sources[0].source if cut.has_recording else "?"
        reason = "there is no such file"
        if Path(str(source)).is_file():
            reason = f"{next(iter(str(error).strip().splitlines()), type(error).__name__)}; the file may be truncated"
        raise UserError(f"cannot read the audio of {cut.id} ({source}): {reason}: run `asrkit check`") from error
    mixed = samples[0] if len(samples) == 1 else samples.mean(axis=0)
    return resample(torch.from_numpy(np.ascontiguousarray(mixed)), cut.sampling_rate, sampling_rate_hz)
