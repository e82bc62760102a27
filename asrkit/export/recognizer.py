"""A model that ships: one file, and five lines of Python to use it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from asrkit.bundle.front_end import build_pipeline
from asrkit.bundle.model_file import (
    LANGUAGE_MODEL,
    ModelBundle,
    language_model_of,
    load_recognizer,
    read_model_file,
    recognizer_of,
    save_language_model,
    save_recognizer,
)
from asrkit.decoding.beam import BeamOptions
from asrkit.decoding.hypothesis import Hypothesis
from asrkit.decoding.long_audio import encode_any_length
from asrkit.decoding.nbest import nbest_to_dicts
from asrkit.decoding.search import BEAM, GREEDY, Search, make_search, own_fusion
from asrkit.errors import UserError
from asrkit.features.audio_files import UNREADABLE, read_samples, resample
from asrkit.features.fbank import FRAME_LENGTH_S, fbank
from asrkit.features.pipeline import FeaturePipeline
from asrkit.models.transducer import Transducer
from asrkit.quantization.integer import use_integers


def export_model(source: Path, target: Path, begin: Callable[[], None] = lambda: None) -> nn.Module:
    """Reads a model file, checks that it loads, and writes it for shipping, without what only training needs.

    Quantized weights become their codes, two a byte for 4 bits.

    Args:
        source: a checkpoint or a model; a language model too.
        target: the file to write.
        begin: called once the source has been read.

    Returns:
        The model that was written.

    Raises:
        UserError: the source is not an asrkit model, or the target cannot be written.
    """
    file = read_model_file(source)
    if file.kind == LANGUAGE_MODEL:
        lm = language_model_of(file)
        begin()
        save_language_model(target, lm, packed=True)
        return lm.model
    bundle = recognizer_of(file)
    begin()
    save_recognizer(target, bundle, packed=True)
    return bundle.model


@dataclass(frozen=True)
class Transcript:
    """The text of one audio file."""

    path: str
    text: str
    duration_s: float
    details: dict[str, Any]
    """Score, tokens and words with times and confidences."""


class Recognizer:
    """Transcribes audio with a model file, from that file alone.

    Args:
        path: what ``asrkit export`` wrote.
        method: ``greedy``, ``beam`` or ``modified_beam``; by default ``beam`` with the language models that are in the
            file, and ``greedy`` where there are none.
        beam: hypotheses kept.
    """

    def __init__(self, path: str | Path, method: str | None = None, beam: int = 8) -> None:
        self.bundle: ModelBundle[Transducer] = load_recognizer(Path(path))
        use_integers(self.bundle.model)
        if self.bundle.config.features.speaker_vector_dim:
            raise UserError(f"{path} needs a vector of each speaker; use asrkit decode on prepared data instead")
        self.pipeline: FeaturePipeline = build_pipeline(self.bundle.config, self.bundle.statistics)
        method = method or (GREEDY if self.bundle.fused is None else BEAM)
        fusion = None if method == GREEDY else own_fusion(self.bundle, torch.device("cpu"))
        self.search: Search = make_search(method, BeamOptions(beam=beam, nbest=beam), fusion)

    def transcribe(self, path: str | Path) -> Transcript:
        """The text of a file that soundfile reads; channels are mixed, other sampling rates resampled.

        Raises:
            UserError: the file is missing, unreadable or empty.
        """
        waveform = read_audio(Path(path), self.pipeline.sampling_rate_hz)
        duration_s = waveform.numel() / self.pipeline.sampling_rate_hz
        details = nbest_to_dicts(self.nbest(waveform), self.bundle.tokenizer)[0]
        return Transcript(str(path), details.pop("text"), round(duration_s, 3), details)

    def recognize(self, waveform: torch.Tensor) -> Hypothesis:
        """The best hypothesis of (N,) samples in [-1, 1] at the model's sampling rate."""
        return self.nbest(waveform)[0]

    def nbest(self, waveform: torch.Tensor) -> list[Hypothesis]:
        """The n-best list of (N,) samples in [-1, 1] at the model's sampling rate."""
        pipeline, model = self.pipeline, self.bundle.model
        features = fbank(waveform, pipeline.sampling_rate_hz, pipeline.num_mel_bins)
        x = pipeline.finish(pipeline.normalize(features, None), None).unsqueeze(0)  # (1, T, F)
        with torch.inference_mode():
            encoder_out, encoder_lens = encode_any_length(
                model.encoder, x, torch.tensor([x.shape[1]]), pipeline.frame_shift_s
            )
            frame_shift_s = pipeline.frame_shift_s * model.encoder.subsampling
            return self.search(model, encoder_out, encoder_lens, frame_shift_s)[0]


def read_audio(path: Path, sampling_rate_hz: int) -> torch.Tensor:
    """(N,) float32 samples of a file, at the wanted rate.

    Raises:
        UserError: the file is missing, unreadable or shorter than a frame.
    """
    if not path.is_file():
        raise UserError(f"no audio file at {path}")
    try:
        samples, rate = read_samples(path)
    except UNREADABLE as error:
        raise UserError(f"cannot read {path}: {str(error).splitlines()[0]}; convert it to WAV or FLAC") from error
    waveform = torch.from_numpy(samples).mean(dim=1)
    if rate != sampling_rate_hz:
        waveform = resample(waveform, rate, sampling_rate_hz)
    if waveform.numel() < FRAME_LENGTH_S * sampling_rate_hz:
        raise UserError(f"{path} holds {waveform.numel()} samples, less than one frame; there is nothing to transcribe")
    return waveform
