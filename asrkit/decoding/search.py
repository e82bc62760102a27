"""The searches by name, as :func:`asrkit.decoding.decode.decode_cuts` takes them."""

from __future__ import annotations

import torch

from asrkit.decoding.beam_search import beam_search
from asrkit.decoding.decode import Search
from asrkit.decoding.greedy import greedy_search
from asrkit.decoding.hypothesis import Hypothesis
from asrkit.models.transducer import Transducer


def make_search(
    method: str, *, beam: int = 8, nbest: int = 1, max_symbols: int = 5, max_labels_per_frame: float = 1.0
) -> Search:
    """A search with its settings.

    Args:
        method: ``greedy`` or ``beam``.
        beam: hypotheses kept (beam).
        nbest: most hypotheses returned (beam; greedy returns one).
        max_symbols: most labels at one frame (greedy).
        max_labels_per_frame: bound on the length of a hypothesis (beam).
    """

    def greedy(model: Transducer, x: torch.Tensor, x_lens: torch.Tensor, shift_s: float) -> list[list[Hypothesis]]:
        return [[h] for h in greedy_search(model, x, x_lens, frame_shift_s=shift_s, max_symbols=max_symbols)]

    def wide(model: Transducer, x: torch.Tensor, x_lens: torch.Tensor, shift_s: float) -> list[list[Hypothesis]]:
        return beam_search(
            model, x, x_lens, frame_shift_s=shift_s, beam=beam, nbest=nbest, max_labels_per_frame=max_labels_per_frame
        )

    return greedy if method == "greedy" else wide
