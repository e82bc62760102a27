"""Decoding cuts, or a split of prepared data, with a model: features, encoder and search, batch by batch."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from lhotse.cut import Cut

from asrkit.bundle.front_end import build_pipeline
from asrkit.bundle.model_file import ModelBundle
from asrkit.config import DecodeConfig
from asrkit.config_losses import frame_epochs
from asrkit.console import progress_bar
from asrkit.data.folder import DataFolder
from asrkit.data.loaders import in_batches
from asrkit.decoding.hypothesis import Hypothesis
from asrkit.decoding.long_audio import encode_any_length
from asrkit.decoding.search import Search, build_search
from asrkit.devices import choose_device
from asrkit.errors import UserError
from asrkit.features.pipeline import FeaturePipeline
from asrkit.models.transducer import Transducer
from asrkit.quantization.integer import use_integers


@dataclass(frozen=True)
class Decoded:
    """A decoded split."""

    lists: list[tuple[Cut, list[Hypothesis]]]
    """Each utterance with its n-best list."""
    seconds: float
    """Duration of decoding."""

    @property
    def audio_s(self) -> float:
        """Seconds of speech."""
        result: float = sum(cut.duration for cut, _ in self.lists)
        return result


def decode_split(
    bundle: ModelBundle[Transducer],
    folder: DataFolder,
    split: str,
    settings: DecodeConfig,
    shard: tuple[int, int] = (0, 1),
) -> Decoded:
    """Decodes a split of prepared data, on CUDA if available; on a CPU, quantized models use integers.

    Args:
        bundle: the recognizer.
        folder: prepared data.
        split: name of the split.
        settings: of decoding.
        shard: number of this process, and number of processes that share the utterances.

    Raises:
        UserError: data or language models cannot be used, or settings contradict each other.
    """
    num_epochs = bundle.config.train.num_epochs
    if frame_epochs(bundle.config.loss, num_epochs) >= num_epochs:
        raise UserError("this model classifies frames (loss.frame_epochs in all epochs); it cannot be decoded")
    device = choose_device("auto")
    if device.type == "cpu":
        use_integers(bundle.model)
    pipeline = build_pipeline(bundle.config, folder.load_statistics() | bundle.statistics)
    cuts = list(folder.read_features(split))[shard[0] :: shard[1]]
    search = build_search(settings, bundle, device)
    started, lists = time.monotonic(), []
    with progress_bar(f"decode {split}", len(cuts), show=shard[0] == 0) as bar:
        for cut, nbest in decode_cuts(
            bundle.model.to(device), pipeline, cuts, search, batch_seconds=settings.batch_seconds, device=device
        ):
            lists.append((cut, nbest))
            bar.advance()
    return Decoded(lists, time.monotonic() - started)


def decode_cuts(
    model: Transducer,
    pipeline: FeaturePipeline,
    cuts: Sequence[Cut],
    search: Search,
    *,
    batch_seconds: float = 120.0,
    num_workers: int = 0,
    device: torch.device | None = None,
) -> Iterator[tuple[Cut, list[Hypothesis]]]:
    """Decodes cuts, longest first.

    Args:
        model: in evaluation mode, on ``device``.
        pipeline: the features of the model.
        cuts: one utterance each; transcripts are not needed.
        search: from encoder output to n-best lists.
        batch_seconds: padded seconds in a batch.
        num_workers: loader processes.
        device: of the model.

    Yields:
        A cut and its n-best list.

    Raises:
        UserError: audio cannot be read.
    """
    device = device or torch.device("cpu")
    for loaded in in_batches(cuts, pipeline, batch_seconds, num_workers=num_workers):
        batch = loaded.to(device)
        with torch.inference_mode():
            encoder_out, encoder_lens = encode_any_length(
                model.encoder, batch.features, batch.feature_lens, pipeline.frame_shift_s
            )
            nbest = search(model, encoder_out, encoder_lens, pipeline.frame_shift_s * model.encoder.subsampling)
        yield from zip(batch.cuts, nbest, strict=True)
