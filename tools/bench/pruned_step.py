"""One forward and backward pass of the pruned loss, by this package or by k2; run with torch and either alone.

Usage: python tools/bench/pruned_step.py {ours,k2} B T U V REPEATS   (prints the median seconds, one thread)
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import torch

sys.path[:0] = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).resolve().parent)]

from measure import alternate  # noqa: E402

from asrkit.losses.k2_transducer import k2_pruned_losses, k2_pruned_transducer_loss  # noqa: E402
from asrkit.losses.pruned_transducer import (  # noqa: E402
    prune,
    pruned_transducer_loss,
    pruning_bounds,
    simple_transducer_loss,
)

PRUNE_RANGE = 5
JOINER_DIM = 128


def pruned_step(kind: str, shape: tuple[int, int, int, int]) -> Callable[[], float]:
    """A function that computes the loss and all gradients, from encoder and predictor outputs to the joiner."""
    batch, times, labels, symbols = shape
    torch.manual_seed(0)
    encoder_out = torch.randn(batch, times, JOINER_DIM, requires_grad=True)
    predictor_out = torch.randn(batch, labels + 1, JOINER_DIM, requires_grad=True)
    am, lm, out = (torch.nn.Linear(JOINER_DIM, symbols) for _ in range(3))
    tokens = torch.randint(1, symbols, (batch, labels))
    lens = torch.full((batch,), times), torch.full((batch,), labels)

    def step() -> float:
        parts = am(encoder_out), lm(predictor_out)
        if kind == "k2":
            simple, bounds = k2_pruned_losses(*parts, tokens, *lens, prune_range=PRUNE_RANGE, lm_only_scale=0.25)
        else:
            simple, posteriors = simple_transducer_loss(*parts, tokens, *lens, lm_only_scale=0.25)
            bounds = pruning_bounds(posteriors, *lens, PRUNE_RANGE)
        h, g = prune(encoder_out, predictor_out, bounds)
        logits = out(torch.tanh(h + g))
        loss = k2_pruned_transducer_loss if kind == "k2" else pruned_transducer_loss
        total = loss(logits, tokens, bounds, *lens).sum() + 0.5 * simple.sum()
        total.backward()
        return total.item()

    return step


if __name__ == "__main__":
    torch.set_num_threads(1)
    batch, times, labels, symbols, repeats = map(int, sys.argv[2:])
    step = pruned_step(sys.argv[1], (batch, times, labels, symbols))
    print(alternate({"step": step}, repeats)["step"])
