"""Greedy's hypothesis, computed with a beam."""

from __future__ import annotations

import torch

from asrkit.decoding.histories import Histories
from asrkit.decoding.hypothesis import Hypothesis
from asrkit.decoding.traceback import Final, Trace, hypotheses
from asrkit.symbols import BLANK_ID


class GreedyPath:
    """The labels of :func:`asrkit.decoding.greedy.greedy_search`, at the alignment length of a beam.

    Mostly it is also a hypothesis of the beam, so its label histories are already evaluated.

    Args:
        batch: B.
        max_symbols: most labels at one frame.
        device: of the search.
    """

    def __init__(self, batch: int, max_symbols: int, device: torch.device) -> None:
        self.max_symbols = max_symbols
        self.row = torch.zeros(batch, dtype=torch.int64, device=device)
        """(B,) label history."""
        self.length, self.symbols = (torch.zeros_like(self.row) for _ in range(2))
        """(B,) labels so far, and those since the last blank."""
        self.ends, self.most = (torch.zeros_like(self.row) for _ in range(2))
        """(B,) frames of an utterance, and the labels beyond which the path is dropped."""
        self.arcs = 0
        """Arcs taken so far."""
        self.trace = Trace()

    def bound(self, ends: torch.Tensor, most: torch.Tensor) -> None:
        """Sets the frames of each utterance (B,), and most labels of the path (B,), -1 for no path."""
        self.ends, self.most = ends, most

    @property
    def frame(self) -> torch.Tensor:
        """(B,) frame of the path."""
        return self.arcs - self.length

    def continues(self) -> torch.Tensor:
        """(B,) whether the path has more arcs to take."""
        return (self.frame < self.ends) & (self.length <= self.most)

    def advance(self, log_probs: torch.Tensor, utterance: torch.Tensor, histories: Histories) -> None:
        """Takes the best arc; after ``max_symbols`` labels, blank.

        Args:
            log_probs: (N, V) at the paths' frames.
            utterance: (N,) number of each path's utterance, 0 <= number < B.
            histories: of the search.
        """
        score, symbol = log_probs.max(dim=-1)
        symbols = self.symbols[utterance]
        ended = ~self.continues()[utterance]
        symbol = symbol.masked_fill(ended | (symbols >= self.max_symbols), BLANK_ID)
        is_label = symbol != BLANK_ID
        self.symbols[utterance] = torch.where(is_label, symbols + 1, 0)
        emitting = utterance[is_label]
        if len(emitting):
            self.length[emitting] += 1
            self.row[emitting] = histories.extend(self.row[emitting], symbol[is_label])
        self.arcs += 1
        self.trace.add(utterance, torch.zeros_like(symbol)[:, None], symbol[:, None], score[:, None])

    def hypotheses(self, frame_shift_s: float) -> list[Hypothesis | None]:
        """(B,) at the end; None if there is none. The scores are not set."""
        columns = (self.ends.tolist(), self.length.tolist(), self.most.tolist())
        finals = [
            [Final(length=length, steps=frames + length)] if length <= most else []
            for frames, length, most in zip(*columns, strict=True)
        ]
        lists = hypotheses(finals, self.trace, synchronous=False, frame_shift_s=frame_shift_s)
        return [nbest[0] if nbest else None for nbest in lists]
