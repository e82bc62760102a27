"""Decodes a set of cuts with a model: features, encoder and search, batch after batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from lhotse.cut import Cut

from asrkit.data.batching import inference_batches
from asrkit.data.loaders import BatchDataset, LoaderError, iterate
from asrkit.decoding.hypothesis import Hypothesis
from asrkit.decoding.long_audio import encode_any_length
from asrkit.errors import UserError
from asrkit.features.pipeline import FeaturePipeline
from asrkit.models.transducer import Transducer

Search = Callable[[Transducer, torch.Tensor, torch.Tensor, float], list[list[Hypothesis]]]
"""(model, encoder_out, encoder_lens, frame_shift_s) to an n-best list an utterance, best first."""


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
        pipeline: the features the model was trained on.
        cuts: one utterance each; transcripts are not needed.
        search: from encoder output to n-best lists.
        batch_seconds: padded seconds in a batch.
        num_workers: loader processes.
        device: where the model is.

    Yields:
        A cut and its n-best list.

    Raises:
        UserError: audio that cannot be read.
    """
    device = device or torch.device("cpu")
    steps = [[part] for part in inference_batches(cuts, batch_seconds)]
    for batches in iterate(BatchDataset(steps, pipeline), num_workers):
        if isinstance(batches, LoaderError):
            raise UserError(batches.message)
        batch = batches[0].to(device)
        with torch.inference_mode():
            encoder_out, encoder_lens = encode_any_length(
                model.encoder, batch.features, batch.feature_lens, pipeline.frame_shift_s
            )
            nbest = search(model, encoder_out, encoder_lens, pipeline.frame_shift_s * model.encoder.subsampling)
        yield from zip(batch.cuts, nbest, strict=True)
