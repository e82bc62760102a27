"""The searches by name, as :func:`asrkit.decoding.decode.decode_cuts` takes them."""

from __future__ import annotations

from functools import partial

import torch

from asrkit.decoding.beam_search import BeamOptions, beam_search, modified_beam_search
from asrkit.decoding.decode import Search
from asrkit.decoding.density_ratio import Fusion
from asrkit.decoding.greedy import greedy_search
from asrkit.decoding.hypothesis import Hypothesis
from asrkit.errors import UserError
from asrkit.models.transducer import Transducer


def make_search(method: str, options: BeamOptions | None = None, fusion: Fusion | None = None) -> Search:
    """A search with its settings.

    Args:
        method: ``greedy``, ``beam`` or ``modified_beam``.
        options: of the beam searches; ``max_symbols`` and ``blank_penalty`` of the greedy one too.
        fusion: language models for the beam searches.

    Raises:
        UserError: greedy search without a bound on the labels at one frame.
    """
    options = options or BeamOptions()
    if method == "greedy" and options.max_symbols < 1:
        raise UserError("decode.max_symbols must be 1 or more for greedy search, which would not end without a bound")
    if method == "greedy":
        return partial(_greedy, options=options)
    search = beam_search if method == "beam" else modified_beam_search

    def wide(model: Transducer, x: torch.Tensor, x_lens: torch.Tensor, shift_s: float) -> list[list[Hypothesis]]:
        return search(model, x, x_lens, frame_shift_s=shift_s, options=options, fusion=fusion)

    return wide


def _greedy(
    model: Transducer, x: torch.Tensor, x_lens: torch.Tensor, shift_s: float, options: BeamOptions
) -> list[list[Hypothesis]]:
    found = greedy_search(
        model, x, x_lens, frame_shift_s=shift_s, max_symbols=options.max_symbols, blank_penalty=options.blank_penalty
    )
    return [[h] for h in found]
