from __future__ import annotations

import itertools
import math

import torch
from torch.nn import functional as F

from asrkit.losses.transducer import ctc_loss, transducer_loss


def brute_force(log_probs: torch.Tensor, labels: list[int]) -> float:
    """-log of the sum over all alignments of (T, U + 1, V) log probabilities."""
    time, total = log_probs.shape[0], 0.0
    # An alignment chooses how many labels each frame emits before its blank.
    for per_frame in itertools.product(range(len(labels) + 1), repeat=time):
        if sum(per_frame) != len(labels):
            continue
        u, score = 0, 0.0
        for t, count in enumerate(per_frame):
            for _ in range(count):
                score += log_probs[t, u, labels[u]].item()
                u += 1
            score += log_probs[t, u, 0].item()
        total += math.exp(score)
    return -math.log(total)


def test_equals_the_sum_over_all_alignments() -> None:
    torch.manual_seed(0)
    logits = torch.randn(3, 5, 4, 6)
    tokens = torch.tensor([[1, 2, 3], [5, 5, 0], [4, 0, 0]])
    encoder_lens, token_lens = torch.tensor([5, 4, 2]), torch.tensor([3, 2, 1])
    losses = transducer_loss(logits, tokens, encoder_lens, token_lens)
    for b in range(3):
        t, u = int(encoder_lens[b]), int(token_lens[b])
        expected = brute_force(torch.log_softmax(logits[b, :t, : u + 1], -1), tokens[b, :u].tolist())
        assert abs(losses[b].item() - expected) < 1e-4 * expected


def test_wider_lattices_than_needed_change_nothing() -> None:
    torch.manual_seed(0)
    logits, tokens = torch.randn(2, 7, 5, 6), torch.randint(1, 6, (2, 4))
    lens, label_lens = torch.tensor([5, 4]), torch.tensor([3, 2])
    padded = transducer_loss(logits, tokens, lens, label_lens)
    exact = transducer_loss(logits[:, :5, :4], tokens[:, :3], lens, label_lens)
    assert torch.equal(padded, exact)


def test_ctc_is_torchs_and_safe_for_impossible_labels() -> None:
    torch.manual_seed(0)
    logits = torch.randn(2, 6, 5)
    tokens, lens = torch.tensor([[1, 2, 3], [2, 2, 2]]), torch.tensor([6, 3])
    losses = ctc_loss(logits, tokens, lens, torch.tensor([3, 3]))
    log_probs = torch.log_softmax(logits[:1], -1).transpose(0, 1)
    expected = F.ctc_loss(log_probs, tokens[:1], lens[:1], torch.tensor([3]), reduction="sum")
    assert torch.allclose(losses[0], expected, atol=1e-5)
    assert losses[1] == 0.0  # three equal labels need five frames
