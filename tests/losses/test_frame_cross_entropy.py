from __future__ import annotations

import math

import pytest
import torch

from asrkit.losses.frame_cross_entropy import NO_LABEL, frame_cross_entropy, frame_labels


def test_a_label_is_held_until_the_next_or_for_a_fifth_of_a_second() -> None:
    tokens = torch.tensor([[3, 4, 5, 6], [7, 8, 0, 0]])
    starts = torch.tensor([[0.08, 0.16, 0.16, 0.6], [0.0, 0.2, 0.0, 0.0]])
    labels = frame_labels(tokens, starts, torch.tensor([4, 2]), torch.tensor([18, 7]), 0.04)
    # 4 and 5 begin together, so 5 moves to the next frame; then silence after five frames of 0.04 s.
    assert labels[0].tolist() == [0, 0, 3, 3, 4, 5, 5, 5, 5, 5, 0, 0, 0, 0, 0, 6, 6, 6]
    assert labels[1].tolist() == [7, 7, 7, 7, 7, 8, 8] + [NO_LABEL] * 11


def test_a_finer_rate_places_the_same_times() -> None:
    tokens, starts = torch.tensor([[3, 4]]), torch.tensor([[0.04, 0.12]])
    lens = torch.tensor([2])
    coarse = frame_labels(tokens, starts, lens, torch.tensor([6]), 0.04)
    fine = frame_labels(tokens, starts, lens, torch.tensor([24]), 0.01)
    assert coarse.repeat_interleave(4, dim=1).tolist() == fine.tolist()


def test_labels_that_find_no_frame_are_left_out_and_silence_has_none() -> None:
    late = frame_labels(torch.tensor([[3, 4]]), torch.tensor([[0.0, 9.0]]), torch.tensor([2]), torch.tensor([3]), 0.04)
    assert late.tolist() == [[3, 3, 3]]
    empty = frame_labels(
        torch.zeros(1, 0, dtype=torch.int64), torch.zeros(1, 0), torch.tensor([0]), torch.tensor([3]), 0.04
    )
    assert empty.tolist() == [[0, 0, 0]]


def test_cross_entropy_and_errors_count_real_frames_alone() -> None:
    logits = torch.zeros(2, 3, 4)
    logits[0, :, 1] = 100.0
    labels = torch.tensor([[1, 1, 2], [0, NO_LABEL, NO_LABEL]])
    losses, wrong = frame_cross_entropy(logits, labels)
    assert losses.tolist() == pytest.approx([100.0, math.log(4)], abs=1e-5)
    assert wrong.tolist() == [1, 0]
    longer = torch.nn.functional.pad(logits, (0, 0, 0, 2)), torch.nn.functional.pad(labels, (0, 2), value=NO_LABEL)
    assert torch.equal(frame_cross_entropy(*longer)[0], losses)
