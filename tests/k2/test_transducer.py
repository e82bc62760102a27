"""Our losses against k2's, in an environment that has k2 (tools/test_k2.sh)."""

from __future__ import annotations

import pytest
import torch

k2 = pytest.importorskip("k2", reason="k2 is not installed here; tools/test_k2.sh makes an environment for it")

from asrkit.losses.k2_transducer import k2_pruned_losses, k2_pruned_transducer_loss  # noqa: E402
from asrkit.losses.pruned_transducer import (  # noqa: E402
    pruned_transducer_loss,
    pruning_bounds,
    simple_transducer_loss,
)
from asrkit.losses.transducer import transducer_loss  # noqa: E402
from tests.losses.brute_force import random_lattices  # noqa: E402

SHAPES = [(4, 30, 10, 8), (3, 20, 14, 20), (2, 60, 25, 6)]


def close(a: torch.Tensor, b: torch.Tensor) -> bool:
    return torch.allclose(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", SHAPES)
def test_full_loss_is_k2s(shape: tuple[int, int, int, int]) -> None:
    logits, tokens, frame_lens, token_lens = random_lattices(shape)
    boundary = torch.zeros(shape[0], 4, dtype=torch.int64)
    boundary[:, 2], boundary[:, 3] = token_lens, frame_lens
    mine, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    losses = transducer_loss(mine, tokens, frame_lens, token_lens)
    expected = k2.rnnt_loss(logits=theirs, symbols=tokens, termination_symbol=0, boundary=boundary, reduction="none")
    assert close(losses, expected)
    losses.sum().backward()
    expected.sum().backward()
    assert mine.grad is not None and theirs.grad is not None and close(mine.grad, theirs.grad)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("scales", [(0.0, 0.0), (0.1, 0.25)])
def test_simple_loss_bounds_and_pruned_loss_are_k2s(
    shape: tuple[int, int, int, int], scales: tuple[float, float]
) -> None:
    batch, times, labels, symbols = shape
    torch.manual_seed(0)
    _, tokens, frame_lens, token_lens = random_lattices(shape)
    frame_lens = torch.maximum(frame_lens, token_lens)
    parts = [torch.randn(batch, n, symbols) * 2 for n in (times, labels + 1)]
    am_scale, lm_scale = scales
    mine, theirs = ([x.clone().requires_grad_() for x in parts] for _ in range(2))
    losses, posteriors = simple_transducer_loss(
        mine[0], mine[1], tokens, frame_lens, token_lens, am_only_scale=am_scale, lm_only_scale=lm_scale
    )
    expected, bounds = k2_pruned_losses(
        theirs[0],
        theirs[1],
        tokens,
        frame_lens,
        token_lens,
        prune_range=5,
        am_only_scale=am_scale,
        lm_only_scale=lm_scale,
    )
    assert close(losses, expected)
    losses.sum().backward()
    expected.sum().backward()
    for a, b in zip(mine, theirs, strict=True):
        assert a.grad is not None and b.grad is not None and close(a.grad, b.grad)

    # On the same posteriors, since windows that hold nearly all are told apart by rounding.
    px_grad = torch.nn.functional.pad(posteriors.label[:, :, :-1], (0, 0, 0, 1)).transpose(1, 2).contiguous()
    py_grad = posteriors.blank.transpose(1, 2).contiguous()
    boundary = torch.stack([0 * token_lens, 0 * token_lens, token_lens, frame_lens], dim=1)
    assert torch.equal(
        pruning_bounds(posteriors, frame_lens, token_lens, 5),
        k2.get_rnnt_prune_ranges(px_grad, py_grad, boundary, 5),
    )

    logits = torch.randn(batch, times, bounds.shape[2], symbols)
    x, y = (logits.clone().requires_grad_() for _ in range(2))
    pruned = pruned_transducer_loss(x, tokens, bounds, frame_lens, token_lens)
    reference = k2_pruned_transducer_loss(y, tokens, bounds, frame_lens, token_lens)
    assert close(pruned, reference)
    pruned.sum().backward()
    reference.sum().backward()
    assert x.grad is not None and y.grad is not None and close(x.grad, y.grad)
