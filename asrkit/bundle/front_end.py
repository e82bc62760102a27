"""Builds a model's feature pipeline from its configuration."""

from __future__ import annotations

from pathlib import Path

import torch

from asrkit.config import Config
from asrkit.errors import UserError
from asrkit.features.normalization import MeanStd
from asrkit.features.pipeline import FeaturePipeline
from asrkit.tensor_files import read_tensors


def build_pipeline(config: Config, statistics: dict[str, MeanStd]) -> FeaturePipeline:
    """The feature pipeline of an experiment, without augmentation.

    Raises:
        UserError: the speaker vectors cannot be read, or have another size.
    """
    features, encoder = config.features, config.model.encoder
    vectors = read_speaker_vectors(Path(features.speaker_vectors)) if features.speaker_vectors else {}
    if vectors and len(next(iter(vectors.values()))) != features.speaker_vector_dim:
        raise UserError(
            f"features.speaker_vector_dim is {features.speaker_vector_dim} but the vectors of "
            f"{features.speaker_vectors} have {len(next(iter(vectors.values())))} numbers"
        )
    if features.speaker_vector_dim and not vectors:
        raise UserError("features.speaker_vector_dim is set: give the vectors' file as features.speaker_vectors")
    return FeaturePipeline(
        sampling_rate_hz=features.sampling_rate_hz,
        num_mel_bins=features.num_mel_bins,
        normalization=features.normalization,
        statistics=statistics,
        deltas=features.deltas,
        stacking=features.stacking,
        speaker_vectors=vectors,
        frames_per_label=features.stacking * (encoder.subsampling if encoder.type in ("conformer", "dssformer") else 1),
    )


def read_speaker_vectors(path: Path) -> dict[str, torch.Tensor]:
    """Vectors by speaker, such as i-vectors: a safetensors file with one (E,) tensor per speaker.

    Raises:
        UserError: the file is missing, or is not a safetensors file of vectors of one length.
    """
    if not path.is_file():
        raise UserError(f"features.speaker_vectors: there is no file {path}")
    vectors = read_tensors(path, "set features.speaker_vectors to another one")
    shapes = {tuple(vector.shape) for vector in vectors.values()}
    if len(shapes) != 1 or len(next(iter(shapes))) != 1:
        raise UserError(f"features.speaker_vectors: {path} must hold vectors of one length, it holds {sorted(shapes)}")
    return {speaker: vector.float() for speaker, vector in vectors.items()}
