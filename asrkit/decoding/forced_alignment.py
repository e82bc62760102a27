"""Forced alignment: a recognizer's times of the symbols of a transcript."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from asrkit.bundle.front_end import build_pipeline
from asrkit.bundle.model_file import ModelBundle
from asrkit.console import progress_bar
from asrkit.data.alignments import read_alignments
from asrkit.data.batching import Batch
from asrkit.data.folder import DataFolder
from asrkit.data.index import open_index
from asrkit.data.loaders import in_batches
from asrkit.devices import choose_device
from asrkit.errors import UserError
from asrkit.files import atomic_path
from asrkit.losses.best_path import best_path
from asrkit.losses.frame_cross_entropy import NO_LABEL, frame_labels
from asrkit.losses.transducer import transducer_arcs
from asrkit.models.transducer import Transducer
from asrkit.randomness import seeded_generator

BATCH_SECONDS = 60.0
FRAMES = "frames.safetensors"
EVERY = 10
"""Every tenth labelled frame is written, as neighbours are similar."""
CONTEXT = 4
"""Context frames on each side of a labelled frame."""
MOST_FRAMES = 40_000


def align_split(bundle: ModelBundle[Transducer], folder: DataFolder, split: str) -> Iterator[tuple[str, torch.Tensor]]:
    """Each utterance's id and the times (U,) of its symbols, in seconds.

    Args:
        bundle: the recognizer.
        folder: prepared data with its symbols.
        split: name of the split.

    Raises:
        UserError: the model has other symbols, or data are unreadable.
    """
    if folder.load_tokenizer().to_dict() != bundle.tokenizer.to_dict():
        raise UserError(f"the model has other symbols than {folder.tokenizer}; align with one trained on these data")
    device = choose_device("auto")
    model = bundle.model.to(device)
    pipeline = build_pipeline(bundle.config, folder.load_statistics() | bundle.statistics)
    shift_s = pipeline.frame_shift_s * model.encoder.subsampling
    index = open_index(folder, split, bundle.tokenizer)
    with progress_bar(f"align {split}", len(index)) as bar:
        for batch in in_batches(index, pipeline, BATCH_SECONDS, bundle.tokenizer):
            for id, frames in zip(batch.utterance_ids, align_batch(model, batch.to(device)), strict=True):
                yield id, shift_s * frames.float()
                bar.advance()


@torch.inference_mode()
def align_batch(model: Transducer, batch: Batch) -> list[torch.Tensor]:
    """The encoder frames (U,) at which each utterance's symbols are emitted on the most likely path."""
    encoder_out, encoder_lens = model.encoder(batch.features, batch.feature_lens)
    predictor_out = model.predictor(batch.tokens)
    result = []
    for b, (frames, labels) in enumerate(zip(encoder_lens.tolist(), batch.token_lens.tolist(), strict=True)):
        utterance = slice(b, b + 1)  # one lattice at a time, as its logits need much memory
        lens = encoder_lens[utterance], batch.token_lens[utterance]
        logits = model.joiner.packed(encoder_out[utterance, :frames], predictor_out[utterance, : labels + 1], *lens)
        blank, label = transducer_arcs(logits, batch.tokens[utterance, :labels], *lens)
        result.append(best_path(blank, label, *lens)[0].cpu())
    return result


def write_labelled_frames(bundle: ModelBundle[Transducer], folder: DataFolder, split: str, path: Path) -> int:
    """Writes frames ``x`` (N, 9·F) with their neighbours and labels ``y`` (N,), in random order; returns N.

    Args:
        bundle: a recognizer, whose features are written.
        folder: prepared data that :func:`align_split` aligned.
        split: name of the split.
        path: the safetensors file.

    Raises:
        UserError: no alignments, or unreadable data.
    """
    alignments = read_alignments(folder.alignments(split))
    pipeline = build_pipeline(bundle.config, folder.load_statistics() | bundle.statistics)
    index = open_index(folder, split, bundle.tokenizer)
    # Slightly more than needed, but few enough for memory.
    share = min(1.0, 1.2 * MOST_FRAMES * EVERY * pipeline.frame_shift_s / float(index.durations_s.sum()))
    generator = seeded_generator("frames", 1)
    xs, ys = [], []
    with progress_bar(f"frames of {split}", len(index)) as bar:
        for batch in in_batches(index, pipeline, BATCH_SECONDS, bundle.tokenizer):
            starts_s = alignments.starts(batch.utterance_ids, batch.token_lens.tolist())
            y = frame_labels(batch.tokens, starts_s, batch.token_lens, batch.feature_lens, pipeline.frame_shift_s)
            padded = F.pad(batch.features, (0, 0, CONTEXT, CONTEXT))
            x = padded.unfold(1, 2 * CONTEXT + 1, 1).flatten(2)[:, : y.shape[1]]  # (B, T, F·9)
            x, y = x[:, ::EVERY], y[:, ::EVERY]
            chosen = (y != NO_LABEL) & (torch.rand(y.shape, generator=generator) < share)
            xs.append(x[chosen])
            ys.append(y[chosen])
            for _ in batch.utterance_ids:
                bar.advance()
    order = torch.randperm(sum(map(len, ys)), generator=generator)[:MOST_FRAMES]
    with atomic_path(path) as temporary:
        save_file({"x": torch.cat(xs)[order].contiguous(), "y": torch.cat(ys)[order].contiguous()}, temporary)
    return len(order)
