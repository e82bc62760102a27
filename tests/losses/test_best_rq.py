from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from asrkit.losses.best_rq import (
    RandomProjectionQuantizer,
    draw_mask,
    label_entropies,
    mask_with_noise,
    masked_cross_entropy,
    masked_frames,
    pca_projection,
    stack_for_encoder,
)


def quantizer(seed: int = 0, num_codebooks: int = 1, frames: torch.Tensor | None = None) -> RandomProjectionQuantizer:
    return RandomProjectionQuantizer(
        40,
        codebook_size=128,
        codebook_dim=16,
        num_codebooks=num_codebooks,
        generator=torch.Generator().manual_seed(seed),
        frames=frames,
    )


def generators(number: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(n) for n in range(number)]


def test_labels_are_those_of_the_nearest_vector() -> None:
    made, x = quantizer(num_codebooks=3), torch.randn(2, 50, 40)
    labels = made(x)
    assert labels.shape == (2, 50, 3) and labels.min() >= 0 and labels.max() <= 127
    projected = F.normalize(x @ made.projection, dim=-1)
    for c in range(3):
        distance = (projected[:, :, None] - F.normalize(made.codebooks[c], dim=-1)).norm(dim=-1)
        assert torch.equal(labels[..., c], distance.argmin(dim=-1))


def test_projection_and_codebooks_are_frozen_and_repeated() -> None:
    first, again, other = quantizer(), quantizer(), quantizer(1)
    assert not list(first.parameters()) and set(first.state_dict()) == {"mean", "projection", "codebooks"}
    assert torch.equal(first.projection, again.projection) and torch.equal(first.codebooks, again.codebooks)
    assert not torch.equal(first.projection, other.projection)
    assert first.projection.abs().max() <= math.sqrt(6 / 56)  # Xavier's bound


def test_a_third_of_the_frames_is_masked() -> None:
    lens = torch.full((200,), 1000)
    masked = draw_mask(lens, 1000, 0.02, 20, generators(200))
    assert masked.float().mean().item() == pytest.approx(1 - 0.98**20, abs=0.01)  # 33.2 %
    assert masked[:, 0].float().mean().item() == pytest.approx(1 - 0.98**20, abs=0.1)  # the first frames too
    short = draw_mask(torch.tensor([3, 0]), 10, 1.0, 4, generators(2))
    assert short.tolist() == [[True] * 3 + [False] * 7, [False] * 10]


def test_every_utterance_has_a_span_whatever_its_padding() -> None:
    masked = draw_mask(torch.full((50,), 60), 64, 1e-9, 20, generators(50))
    assert (masked.sum(dim=1) == 20).all() and not masked[:, 60:].any()
    assert len({int(row.nonzero()[0]) for row in masked}) > 10
    wider = draw_mask(torch.full((50,), 60), 80, 1e-9, 20, generators(50))
    assert torch.equal(wider[:, :64], masked) and not wider[:, 64:].any()
    x = torch.zeros(50, 64, 3)
    noisy = mask_with_noise(x, masked, 0.1, generators(50))
    assert torch.equal(mask_with_noise(torch.zeros(50, 80, 3), wider, 0.1, generators(50))[:, :64], noisy)


def test_masked_frames_hold_noise_and_nothing_else_changes() -> None:
    torch.manual_seed(0)
    x, masked = torch.randn(4, 500, 40), draw_mask(torch.full((4,), 500), 500, 0.02, 20, generators(4))
    noisy = mask_with_noise(x, masked, 0.1, generators(4))
    assert torch.equal(noisy[~masked], x[~masked])
    assert noisy[masked].std().item() == pytest.approx(0.1, rel=0.03) and abs(noisy[masked].mean().item()) < 0.005


def test_an_encoder_frame_is_masked_where_all_its_input_is() -> None:
    masked = torch.tensor([[False, True, True, True, True, True, True, True, True, True]])
    assert masked_frames(masked, 4, 3).tolist() == [[False, True, False]]
    assert masked_frames(masked, 1, 10).tolist() == masked.tolist()
    x = torch.arange(20.0).reshape(1, 10, 2)
    stacked = stack_for_encoder(x, 4, 3)
    assert stacked.shape == (1, 3, 8)
    assert stacked[0, 1].tolist() == list(range(8, 16)) and stacked[0, 2].tolist() == [16, 17, 18, 19, 0, 0, 0, 0]


def test_the_loss_is_over_masked_frames_alone() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(2, 6, 2, 128), torch.randint(128, (2, 6, 2))
    masked = torch.tensor([[True, False, True, False, False, False], [False] * 6])
    loss = masked_cross_entropy(logits, labels, masked)
    by_hand = [F.cross_entropy(logits[0, t], labels[0, t]) for t in (0, 2)]
    assert loss.tolist() == pytest.approx([torch.stack(by_hand).mean().item(), 0.0])
    logits[0, 1] += 5  # elsewhere nothing counts
    assert masked_cross_entropy(logits, labels, masked).tolist() == loss.tolist()
    exact = logits.double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: masked_cross_entropy(x, labels, masked), exact)
    chance = masked_cross_entropy(torch.zeros(2, 6, 2, 128), labels, torch.ones(2, 6, dtype=torch.bool))
    assert chance.tolist() == pytest.approx([math.log(128)] * 2)


def test_the_pca_projection_whitens() -> None:
    torch.manual_seed(0)
    x = torch.randn(5000, 40) @ torch.diag(torch.linspace(5, 0.1, 40)) @ torch.linalg.qr(torch.randn(40, 40))[0] + 3
    mean, projection = pca_projection(x, 16)
    covariance = torch.cov(((x - mean) @ projection).T)
    assert torch.allclose(covariance, torch.eye(16), atol=2e-3)
    for offset in (0.0, 30.0):  # of features that are not normalized
        spread = quantizer(frames=x + offset)(x + offset).flatten().bincount(minlength=128)
        assert (spread > 0).sum() > 120  # nearly all labels occur
    with pytest.raises(ValueError, match="directions"):
        pca_projection(torch.ones(10, 40), 4)


def test_the_entropies_of_labels_are_those_of_their_chain() -> None:
    """A label that stays with probability 0.9, and one that does not depend on the one before."""
    size, draw = 8, torch.Generator().manual_seed(1)
    chains = []
    for _ in range(20):
        independent = torch.randint(size, (500,), generator=draw)
        stays = torch.rand(500, generator=draw) < 0.9
        stays[0] = False
        kept = torch.where(stays, 0, torch.arange(500)).cummax(0).values  # the last time that it was redrawn
        chains.append(torch.stack([independent[kept], independent], dim=1))
    stay = 0.9 + 0.1 / size
    of_chain = -stay * math.log(stay) - (1 - stay) * math.log(0.1 / size)
    for c, expected in ((0, of_chain), (1, math.log(size))):
        alone, given = label_entropies([chain[:, c : c + 1] for chain in chains], size)
        assert alone == pytest.approx(math.log(size), abs=0.02) and given == pytest.approx(expected, abs=0.02)
    both = label_entropies(chains, size)
    assert both[1] == pytest.approx((of_chain + math.log(size)) / 2, abs=0.02)
