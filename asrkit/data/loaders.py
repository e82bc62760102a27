"""Reads, computes and pads the planned batches in worker processes."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from lhotse.cut import Cut
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset

from asrkit.data.batching import Batch, Part, inference_batches
from asrkit.data.index import durations_of
from asrkit.data.nbest_label_smoothing import SMOOTHING, NbestLabelSmoothing
from asrkit.data.transcripts import encode_transcript, frames_needed
from asrkit.errors import UserError
from asrkit.features.pipeline import FeaturePipeline
from asrkit.text.tokenizer import Tokenizer

PAD_FRAMES = 16
"""Batches are padded to a multiple of this many frames, as every new shape compiles a matrix kernel."""


def collate(
    features: Sequence[torch.Tensor], tokens: Sequence[Sequence[int]], cuts: Sequence[Cut], augmented: Counter[str]
) -> Batch:
    """Pads utterances of (T, F) features and U labels into one batch."""
    x = pad_sequence(list(features), batch_first=True)
    return Batch(
        features=F.pad(x, (0, 0, 0, -x.shape[1] % PAD_FRAMES)),
        feature_lens=torch.tensor([f.shape[0] for f in features]),
        tokens=pad_sequence([torch.tensor(t, dtype=torch.int64) for t in tokens], batch_first=True),
        token_lens=torch.tensor([len(t) for t in tokens]),
        cuts=cuts,
        augmented=dict(augmented),
    )


@dataclass(frozen=True)
class LoaderError:
    """A UserError that a worker process passes to the training loop, which informs every rank."""

    message: str


class StepDataset(Dataset[list[Batch] | LoaderError]):
    """Batches by step: ``dataset[step]`` holds one batch for each of the step's parts."""

    steps: Sequence[Sequence[Any]]

    def __len__(self) -> int:
        return len(self.steps)

    def __getitem__(self, step: int) -> list[Batch] | LoaderError:
        try:
            return [self.load(part) for part in self.steps[step]]
        except UserError as error:
            return LoaderError(str(error))

    def load(self, part: Any) -> Batch:
        """Reads the utterances of one part.

        Raises:
            UserError: audio or a transcript cannot be used; names the utterance.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class BatchDataset(StepDataset):
    """Batches of the utterances that parts name by number."""

    cuts: Sequence[Cut]
    """Indexed by the numbers in the parts."""
    steps: Sequence[Sequence[Part]]
    pipeline: FeaturePipeline
    tokenizer: Tokenizer | None = None
    """None if there are no transcripts."""
    seed: int = 0
    epoch: int | None = None
    """None disables augmentation."""
    smoothing: NbestLabelSmoothing | None = None
    views: int = 1
    """Presentations of each utterance, each augmented independently."""

    def load(self, part: Part) -> Batch:
        """Reads the utterances of one part; see :meth:`StepDataset.load`."""
        features: list[torch.Tensor] = []
        tokens: list[list[int]] = []
        augmented = Counter[str]()
        drawn = [(self.cuts[number], draw) for number, draw in part.tolist()]
        for view in range(self.views):
            for cut, draw in drawn:
                labels = encode_transcript(self.tokenizer, cut) if self.tokenizer else []
                if self.smoothing and self.epoch is not None:
                    labels, swapped = self.smoothing(labels, cut, self.seed, self.epoch, draw)
                    augmented[SMOOTHING] += swapped and not view
                presentation = draw * self.views + view
                x, applied = self.pipeline(cut, self.seed, self.epoch, frames_needed(labels), presentation)
                features.append(x)
                tokens.append(labels)
                if not view:
                    augmented.update(applied)
        return replace(collate(features, tokens, [cut for cut, _ in drawn], augmented), views=self.views)


def in_batches(
    cuts: Sequence[Cut],
    pipeline: FeaturePipeline,
    batch_seconds: float,
    tokenizer: Tokenizer | None = None,
    num_workers: int = 0,
) -> Iterator[Batch]:
    """All cuts once, without augmentation, longest first, in batches of at most ``batch_seconds`` padded seconds.

    Raises:
        UserError: audio or a transcript cannot be used.
    """
    steps = [[part] for part in inference_batches(durations_of(cuts), batch_seconds)]
    for batches in iterate(BatchDataset(cuts, steps, pipeline, tokenizer), num_workers):
        if isinstance(batches, LoaderError):
            raise UserError(batches.message)
        yield batches[0]


def iterate(dataset: StepDataset, num_workers: int) -> Generator[list[Batch] | LoaderError, None, None]:
    """Batches of all steps, prefetched by ``num_workers`` processes (0: in this one)."""
    loader: DataLoader[list[Batch] | LoaderError] = DataLoader(
        dataset,
        batch_size=None,
        sampler=range(len(dataset)),
        num_workers=num_workers,
        prefetch_factor=4 if num_workers else None,
        worker_init_fn=_prepare_worker if num_workers else None,
    )
    try:
        yield from loader
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        yield LoaderError(
            f"a process that loads data was ended ({str(error).splitlines()[0]}); is there memory for it? "
            "train.num_workers=0 loads in the training process"
        )


def _prepare_worker(worker: int) -> None:
    """Leaves the cores to the model, and signals to the training loop, which stops the workers."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
