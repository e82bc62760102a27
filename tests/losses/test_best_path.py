from __future__ import annotations

import itertools

import pytest
import torch

from asrkit.losses.best_path import best_path
from asrkit.losses.transducer import transducer_arcs
from tests.losses.brute_force import pack, random_lattices


def most_likely(log_probs: torch.Tensor, labels: list[int]) -> list[int]:
    """The frame of each label on the best of all alignments of (T, U + 1, V) log probabilities."""
    best: tuple[float, list[int]] = (-float("inf"), [])
    for frames in itertools.combinations_with_replacement(range(len(log_probs)), len(labels)):
        score = sum(log_probs[t, u, labels[u]].item() for u, t in enumerate(frames))
        score += sum(log_probs[t, sum(f <= t for f in frames), 0].item() for t in range(len(log_probs)))
        best = max(best, (score, list(frames)))
    return best[1]


@pytest.mark.parametrize("seed", range(4))
def test_is_the_best_of_all_alignments(seed: int) -> None:
    logits, tokens, frame_lens, token_lens = random_lattices((6, 6, 4, 5), seed)
    token_lens[1] = 0
    arcs = transducer_arcs(pack(logits, frame_lens, token_lens), tokens, frame_lens, token_lens)
    found = best_path(*arcs, frame_lens, token_lens)
    for b in range(6):
        t, u = int(frame_lens[b]), int(token_lens[b])
        expected = most_likely(torch.log_softmax(logits[b, :t, : u + 1], -1), tokens[b, :u].tolist())
        assert found[b, :u].tolist() == expected
        assert found[b, u:].sum() == 0


def test_all_labels_may_share_the_only_frame() -> None:
    logits, tokens, _, _ = random_lattices((1, 1, 3, 4))
    lens = torch.tensor([1]), torch.tensor([3])
    assert best_path(*transducer_arcs(logits, tokens, *lens), *lens).tolist() == [[0, 0, 0]]
