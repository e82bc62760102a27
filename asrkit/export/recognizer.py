"""Exporting a model to one file, and transcribing with it in a few lines of Python."""

from __future__ import annotations

import math
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
from asrkit.decoding.long_audio import encode_stretches
from asrkit.decoding.nbest import nbest_to_dicts
from asrkit.decoding.search import BEAM, GREEDY, Search, make_search, own_fusion
from asrkit.errors import UserError, shown
from asrkit.features.audio_files import UNREADABLE, read_samples, resample
from asrkit.features.listen import LOUDEST, SILENCE_PEAK, listen, pick, why
from asrkit.features.pipeline import FeaturePipeline
from asrkit.features.stretches import Stretches, of_file, of_waveform
from asrkit.models.transducer import Transducer
from asrkit.quantization.integer import use_integers


def export_model(source: Path, target: Path, begin: Callable[[], None] = lambda: None) -> nn.Module:
    """Reads a model file, checks that it loads, and writes it for shipping, without the state of training.

    Quantized weights are written as codes, two per byte for 4 bits.

    Args:
        source: a checkpoint or a model, also a language model.
        target: the file to write.
        begin: called after the source has been read.

    Returns:
        The written model.

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
    """The text of one recording."""

    path: str
    text: str
    duration_s: float
    details: dict[str, Any]
    """Score, tokens and words with times and confidences."""
    warnings: tuple[str, ...] = ()
    """Problems of the audio with which it can still be used."""
    channel: int = 0
    """The channel used; -1 for the mean of all."""


class Recognizer:
    """Transcribes audio with a model file, using only that file.

    Args:
        path: file from ``asrkit export``.
        method: ``greedy``, ``beam`` or ``modified_beam``; by default ``beam`` if there are language models in the
            file, else ``greedy``.
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

    def transcribe(self, path: str | Path, channel: str = LOUDEST) -> Transcript:
        """The text of an audio file of any length, rate and number of channels, read as in
        :mod:`asrkit.features.listen`. A silent file has no text.

        Raises:
            UserError: the file is missing, cannot be read, or does not contain audio.
        """
        path = Path(path)
        heard = listen(path, channel)
        silent = heard.finite and heard.num_samples > 0 and heard.peak < SILENCE_PEAK
        if heard.problem and not silent:
            raise UserError(f"cannot transcribe {shown(str(path))}: {heard.problem}")
        if silent:
            empty: dict[str, Any] = {"score": 0.0, "tokens": [], "words": []}
            return Transcript(str(path), "", round(heard.duration_s, 3), empty, (heard.problem,), heard.channel)
        try:
            with of_file(path, heard, self.pipeline) as stretches:
                nbest = self._search(stretches)
        except UNREADABLE as error:
            raise UserError(f"cannot read {shown(str(path))}: {why(error)}") from error
        details = nbest_to_dicts(nbest, self.bundle.tokenizer)[0]
        return Transcript(
            str(path), details.pop("text"), round(heard.duration_s, 3), details, heard.warnings, heard.channel
        )

    def recognize(self, waveform: torch.Tensor) -> Hypothesis:
        """The best hypothesis of (N,) samples in [-1, 1] at the model's sampling rate."""
        return self.nbest(waveform)[0]

    def nbest(self, waveform: torch.Tensor) -> list[Hypothesis]:
        """The n-best list of (N,) samples in [-1, 1] at the model's sampling rate."""
        return self._search(of_waveform(waveform, self.pipeline))

    @torch.inference_mode()
    def _search(self, stretches: Stretches) -> list[Hypothesis]:
        pipeline, model = self.pipeline, self.bundle.model
        if pipeline.normalization in ("speaker", "side"):
            stretches.take_statistics()
        search = self.search.start(model, 1, pipeline.frame_shift_s * model.encoder.subsampling)
        windows = encode_stretches(model.encoder, stretches, stretches.num_frames, pipeline.frame_shift_s)
        for encoder_out, last in windows:
            search.accept(encoder_out[None], torch.tensor([len(encoder_out)]), last)
        nbest = search.results()[0]
        if not nbest or not all(math.isfinite(h.score) for h in nbest):
            raise UserError("the model's scores are not finite; is its file damaged, or the audio no speech?")
        return nbest


def read_audio(path: Path, sampling_rate_hz: int, channel: str = LOUDEST) -> torch.Tensor:
    """(N,) float32 samples of a file, at the requested rate.

    Raises:
        UserError: the file is missing, cannot be read, or does not contain audio.
    """
    heard = listen(path, channel)
    if heard.problem:
        raise UserError(f"cannot transcribe {shown(str(path))}: {heard.problem}")
    samples, rate = read_samples(path)
    return resample(torch.from_numpy(pick(samples, heard.channel)), rate, sampling_rate_hz)
