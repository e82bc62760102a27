from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from lhotse import CutSet, Recording
from lhotse.audio import AudioSource
from lhotse.testing.dummies import dummy_cut

from asrkit.data.nbest_label_smoothing import NbestLabelSmoothing, read_hypotheses
from asrkit.errors import UserError
from asrkit.text.tokenizer import CharTokenizer

LISTS = {"dummy-mono-cut-0000": [[k] for k in range(1, 6)]}
DRAWS = 10_000


def smoothing(probability: float, number: int = 5, first: int = 1, last: int = 0) -> NbestLabelSmoothing:
    return NbestLabelSmoothing(LISTS, probability, number, first, last)


def test_swaps_come_with_epsilon_and_uniformly() -> None:
    smooth, cut = smoothing(0.2, 4), dummy_cut(0)
    drawn = [smooth([9], cut, 1, epoch) for epoch in range(1, DRAWS + 1)]
    share = sum(swapped for _, swapped in drawn) / DRAWS
    assert abs(share - 0.2) < 0.012
    counts = Counter(labels[0] for labels, swapped in drawn if swapped)
    assert set(counts) == {1, 2, 3, 4}  # the fifth is beyond K
    expected = share * DRAWS / 4
    assert sum((n - expected) ** 2 / expected for n in counts.values()) < 16.3  # chi-square, 3 degrees, p = 0.001


def test_the_mean_loss_is_the_papers_mixture() -> None:
    smooth, cut = smoothing(0.3), dummy_cut(0)
    loss: dict[tuple[int, ...], float] = {(k,): 1.0 + k for k in range(1, 6)}
    loss[9,] = 1.0
    mean = sum(loss[tuple(smooth([9], cut, 1, epoch)[0])] for epoch in range(1, DRAWS + 1)) / DRAWS
    assert abs(mean - (0.7 * 1.0 + 0.3 / 5 * sum(1.0 + k for k in range(1, 6)))) < 0.05


def test_only_in_its_epochs_and_reproducibly() -> None:
    cut = dummy_cut(0)
    always = smoothing(1.0, first=3, last=5)
    assert [always([9], cut, 1, epoch)[1] for epoch in range(1, 8)] == [False, False, True, True, True, False, False]
    assert smoothing(0.5)([9], cut, 1, 7) == smoothing(0.5)([9], cut, 1, 7)
    assert smoothing(0.0)([9], cut, 1, 7) == ([9], False)


def test_a_missing_list_is_named() -> None:
    with pytest.raises(UserError, match="dummy-mono-cut-0001 has no n-best list"):
        smoothing(1.0)([9], dummy_cut(1), 1, 1)


def test_lists_are_read_and_encoded(tmp_path: Path) -> None:
    recording = Recording("a", [AudioSource("file", [0], "a.wav")], 16000, 16000, 1.0)
    cut = recording.to_cut().with_custom("hypotheses", [{"text": "A B"}, {"text": ""}, {"text": "B"}])
    CutSet.from_cuts([cut]).to_file(tmp_path / "nbest.jsonl.gz")
    tokenizer = CharTokenizer(("<blank>", "A", "B", "▁"))
    assert read_hypotheses(tmp_path / "nbest.jsonl.gz", tokenizer) == {cut.id: [[1, 3, 2], [2]]}
    with pytest.raises(UserError, match="asrkit nbest"):
        read_hypotheses(tmp_path / "missing.jsonl.gz", tokenizer)
