from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from lhotse import CutSet

from asrkit.data.loaders import PAD_FRAMES, BatchDataset, LoaderError, iterate
from asrkit.data.nbest_label_smoothing import NbestLabelSmoothing
from asrkit.data.transcripts import transcript
from asrkit.errors import UserError
from asrkit.features.augmentation import Augmentation
from asrkit.features.pipeline import FeaturePipeline
from asrkit.features.spec_augment import SpecAugment
from asrkit.text.tokenizer import train_tokenizer

PIPELINE = FeaturePipeline(num_mel_bins=16, normalization="none")


def part(*numbers: int) -> np.ndarray:
    """Utterances presented for the first time in an epoch."""
    return np.array([(number, 0) for number in numbers])


def test_a_batch_is_its_utterances_padded(an4_cuts: CutSet) -> None:
    cuts = list(an4_cuts.subset(first=3))
    tokenizer = train_tokenizer([transcript(cut) for cut in cuts], "char", 0)
    batch = BatchDataset(cuts, [], PIPELINE, tokenizer).load(part(0, 1, 2))
    longest = int(batch.feature_lens.max())
    assert batch.features.shape == (3, -(-longest // PAD_FRAMES) * PAD_FRAMES, 16)
    for b, cut in enumerate(cuts):
        features = PIPELINE.raw(cut)
        assert torch.equal(batch.features[b, : features.shape[0]], features)
        assert batch.features[b, features.shape[0] :].abs().sum() == 0
        assert tokenizer.decode(batch.tokens[b, : batch.token_lens[b]].tolist()) == transcript(cut)


def test_workers_give_the_same_batches(an4_cuts: CutSet) -> None:
    dataset = BatchDataset(list(an4_cuts.subset(first=6)), [[part(n)] for n in range(6)], PIPELINE)
    alone, with_workers = (list(iterate(dataset, n)) for n in (0, 2))
    assert len(alone) == len(with_workers) == 6
    for a, b in zip(alone, with_workers, strict=True):
        assert isinstance(a, list) and isinstance(b, list)
        assert torch.equal(a[0].features, b[0].features) and a[0].utterance_ids == b[0].utterance_ids


def test_truncated_audio_is_reported_with_the_utterance(an4_cuts: CutSet, tmp_path: Path) -> None:
    cut = next(iter(an4_cuts))
    source = Path(cut.recording.sources[0].source)
    broken = tmp_path / source.name
    broken.write_bytes(source.read_bytes()[: source.stat().st_size // 2])
    cut.recording.sources[0].source = str(broken)
    try:
        (result,) = iterate(BatchDataset([cut], [[part(0)]], PIPELINE), 1)
    finally:
        cut.recording.sources[0].source = str(source)
    assert isinstance(result, LoaderError)
    assert cut.id in result.message and "asrkit check" in result.message


def test_empty_and_unspellable_transcripts_name_the_utterance(an4_cuts: CutSet) -> None:
    cut = next(iter(an4_cuts))
    empty = cut.map_supervisions(lambda s: s.transform_text(lambda _: " "))
    with pytest.raises(UserError, match=f"{cut.id} has an empty transcript"):
        transcript(empty)
    tokenizer = train_tokenizer(["AB"], "char", 0)
    with pytest.raises(UserError, match=f"{cut.id}: .* not among the 2 characters"):
        BatchDataset([cut], [], PIPELINE, tokenizer).load(part(0))


def test_an_utterance_drawn_twice_is_augmented_twice(an4_cuts: CutSet) -> None:
    """And labels are smoothed twice; the same draw of the same epoch is the same presentation."""
    cut = next(iter(an4_cuts))
    masks: dict[str, Augmentation] = {"spec_augment": SpecAugment(1.0, 2, 8, 2, 20, 0.2)}
    tokenizer = train_tokenizer([transcript(cut), "ABC"], "char", 0)
    labels = [tokenizer.encode(text) for text in ("A", "B", "C", "AB", "BC", "CA")]
    dataset = BatchDataset(
        [cut],
        [],
        FeaturePipeline(num_mel_bins=16, normalization="none", augmentations=masks),
        tokenizer,
        seed=1,
        epoch=1,
        smoothing=NbestLabelSmoothing({cut.id: labels}, 1.0, 6),
    )
    drawn = dataset.load(np.array([(0, draw) for draw in range(6)]))
    rows = [drawn.features[n] for n in range(6)]
    assert all(not torch.equal(a, b) for n, a in enumerate(rows) for b in rows[:n])
    assert len({tuple(tokens) for tokens in drawn.tokens.tolist()}) > 2
    again = dataset.load(np.array([(0, 3)]))
    assert torch.equal(again.features[0], rows[3]) and drawn.utterance_ids == [cut.id] * 6
