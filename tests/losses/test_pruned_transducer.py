from __future__ import annotations

import pytest
import torch

from asrkit.losses.lattice import ArcPosteriors, lattice_loss
from asrkit.losses.pruned_transducer import (
    pruned_transducer_loss,
    pruning_bounds,
    simple_transducer_loss,
)
from asrkit.losses.transducer import transducer_loss
from asrkit.models.joiner import Joiner
from tests.losses.brute_force import random_lattices


def parts(
    shape: tuple[int, int, int, int], seed: int = 0, dtype: torch.dtype = torch.float32
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """am, lm, tokens and lengths."""
    batch, times, labels, symbols = shape
    torch.manual_seed(seed)
    am = torch.randn(batch, times, symbols, dtype=dtype) * 2
    lm = torch.randn(batch, labels + 1, symbols, dtype=dtype) * 2
    _, tokens, frame_lens, token_lens = random_lattices(shape, seed)
    return am, lm, tokens, frame_lens, token_lens


def posteriors(*arguments: torch.Tensor) -> ArcPosteriors:
    return simple_transducer_loss(*arguments)[1]


def test_simple_loss_is_the_full_loss_of_the_sum() -> None:
    am, lm, *rest = parts((4, 12, 5, 7))
    losses, found = simple_transducer_loss(am, lm, *rest)
    expected = transducer_loss(am.unsqueeze(2) + lm.unsqueeze(1), *rest)
    assert torch.allclose(losses, expected, rtol=1e-5)
    assert torch.allclose(found.log_likelihood.float(), -expected, rtol=1e-5)


def test_smoothing_interpolates_log_probabilities() -> None:
    am, lm, tokens, frame_lens, token_lens = parts((1, 6, 3, 5), dtype=torch.float64)
    losses, _ = simple_transducer_loss(am, lm, tokens, frame_lens, token_lens, am_only_scale=0.2, lm_only_scale=0.3)
    joint = torch.log_softmax(am.unsqueeze(2) + lm.unsqueeze(1), -1)
    lm_only = torch.log_softmax(lm, -1).unsqueeze(1)
    unigram = torch.softmax(lm, -1).mean((0, 1))
    am_only = torch.log_softmax(am + unigram.log(), -1).unsqueeze(2)
    mixed = 0.5 * joint + 0.3 * lm_only + 0.2 * am_only
    # Log probabilities that do not sum to one: make them logits by a last symbol that takes the rest.
    rest = torch.log1p(-mixed.exp().sum(-1, keepdim=True))
    expected = transducer_loss(torch.cat([mixed, rest], -1), tokens, frame_lens, token_lens)
    assert losses.item() == pytest.approx(expected.item(), rel=1e-9)


@pytest.mark.parametrize("scales", [(0.0, 0.0), (0.1, 0.25)])
def test_gradients_are_the_derivatives(scales: tuple[float, float]) -> None:
    am, lm, *rest = parts((2, 4, 3, 5), dtype=torch.float64)

    def loss(am: torch.Tensor, lm: torch.Tensor) -> torch.Tensor:
        return simple_transducer_loss(am, lm, *rest, am_only_scale=scales[0], lm_only_scale=scales[1])[0]

    assert torch.autograd.gradcheck(loss, (am.requires_grad_(), lm.requires_grad_()))
    bounds = pruning_bounds(posteriors(am.detach(), lm.detach(), *rest), rest[1], rest[2], 2)
    logits = torch.randn(2, 4, 2, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: pruned_transducer_loss(x, rest[0], bounds, *rest[1:]), logits)


@pytest.mark.parametrize("shape", [(5, 30, 12, 7), (3, 6, 14, 7), (4, 40, 3, 5)])
@pytest.mark.parametrize("prune_range", [2, 4, 5])
def test_bounds_leave_a_path(shape: tuple[int, int, int, int], prune_range: int) -> None:
    am, lm, tokens, frame_lens, token_lens = parts(shape)
    if shape[1] * (prune_range - 1) < shape[2]:
        pytest.skip("more labels than any path through these windows can emit")
    frame_lens = torch.full_like(frame_lens, shape[1])
    bounds = pruning_bounds(posteriors(am, lm, tokens, frame_lens, token_lens), frame_lens, token_lens, prune_range)
    size = min(prune_range, shape[2] + 1)
    assert bounds.shape == (shape[0], shape[1], size)
    assert torch.equal(bounds[:, :, 1:], bounds[:, :, :-1] + 1)
    assert (bounds[:, 0, 0] == 0).all() and bounds.min() >= 0 and bounds.max() <= shape[2]
    rises = bounds[:, 1:, 0] - bounds[:, :-1, 0]
    assert rises.min() >= 0 and rises.max() <= size - 1
    last = torch.maximum(token_lens, torch.tensor(size - 1))
    assert torch.equal(bounds[:, -1, -1], last)
    logits = torch.zeros(*bounds.shape, shape[3])
    losses = pruned_transducer_loss(logits, tokens, bounds, frame_lens, token_lens)
    full = transducer_loss(torch.zeros(shape[0], shape[1], shape[2] + 1, shape[3]), tokens, frame_lens, token_lens)
    assert torch.isfinite(losses).all() and (losses >= full - 1e-4).all()


def test_all_labels_kept_is_the_full_loss() -> None:
    torch.manual_seed(0)
    joiner = Joiner(4, 3, 5, 7, "add")
    am, lm, tokens, frame_lens, token_lens = parts((3, 9, 4, 7))
    encoder_out, predictor_out = torch.randn(3, 9, 4), torch.randn(3, 5, 3)
    bounds = pruning_bounds(posteriors(am, lm, tokens, frame_lens, token_lens), frame_lens, token_lens, 5)
    grads = []
    for pruned in (False, True):
        joiner.zero_grad()
        if pruned:
            logits = joiner.pruned(encoder_out, predictor_out, bounds)
            losses = pruned_transducer_loss(logits, tokens, bounds, frame_lens, token_lens)
        else:
            losses = transducer_loss(joiner(encoder_out, predictor_out), tokens, frame_lens, token_lens)
        losses.sum().backward()
        grads.append([losses.detach(), *(p.grad.clone() for p in joiner.parameters() if p.grad is not None)])
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in zip(*grads, strict=True))


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_a_band_is_the_lattice_without_the_rest(size: int) -> None:
    torch.manual_seed(size)
    batch, times, labels = 6, 12, 0 if size == 1 else 9
    frame_lens = torch.tensor([12, 12, 11, 9, 10, 12])
    token_lens = torch.tensor([labels, labels, labels, 3, 0, 5]).clamp_max(labels)
    rises = torch.randint(0, size, (batch, times)) * (torch.arange(times) > 0)
    last_window = (token_lens + 1 - size).clamp_min(0)[:, None]
    first = rises.cumsum(1).minimum(last_window)
    bounds = first.unsqueeze(2) + torch.arange(size)
    arcs = [torch.randn(batch, times, size, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    banded = lattice_loss(arcs[0], arcs[1], frame_lens, token_lens, first)[0]
    nothing = torch.full((batch, times, max(labels + 1, int(bounds.max()) + 1)), float("-inf"), dtype=torch.float64)
    whole = [nothing.scatter(2, bounds, kind) for kind in arcs]
    expected = lattice_loss(whole[0], whole[1], frame_lens, token_lens)[0]
    assert torch.isfinite(expected).sum() >= 2
    assert torch.allclose(banded, expected, rtol=1e-12, equal_nan=True)
    weights = torch.rand(batch, dtype=torch.float64)
    grads = [torch.autograd.grad((losses * weights).sum(), arcs) for losses in (banded, expected)]
    assert all(torch.allclose(a, b, atol=1e-12) for a, b in zip(*grads, strict=True))


def test_the_window_follows_the_path() -> None:
    # The encoder says clearly that label u is emitted at frame 5 u.
    times, labels = 25, 5
    am = torch.full((1, times, labels + 1), -8.0)
    am[:, :, 0] = 8.0
    for u in range(labels):
        am[0, 5 * u, u + 1] = 30.0
    tokens = torch.arange(1, labels + 1)[None]
    lens, label_lens = torch.tensor([times]), torch.tensor([labels])
    lm = torch.zeros(1, labels + 1, labels + 1)
    bounds = pruning_bounds(posteriors(am, lm, tokens, lens, label_lens), lens, label_lens, 2)
    for t in range(times):
        assert t // 5 + (t % 5 > 0) in bounds[0, t].tolist()


def test_a_range_without_a_path_is_refused() -> None:
    am, lm, *rest = parts((2, 9, 4, 7))
    with pytest.raises(ValueError, match="prune_range must be 2 at least"):
        pruning_bounds(posteriors(am, lm, *rest), rest[1], rest[2], 1)
