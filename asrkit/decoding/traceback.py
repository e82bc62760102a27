"""From the arcs that a beam search took back to label sequences with times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from asrkit.decoding.hypothesis import Hypothesis


@dataclass(frozen=True)
class Final:
    """A hypothesis that has left the last frame."""

    score: float = 0.0
    length: int = 0
    """Labels."""
    steps: int = 0
    """Steps of the trace that lead to it."""
    place: int = 0
    """Its place in the beam after them."""
    parts: dict[str, float] = field(default_factory=lambda: {"am": 0.0})


@dataclass
class Trace:
    """For each step and each place of the beam, (B, K): the place before it, the symbol, and its log probability."""

    origins: list[torch.Tensor] = field(default_factory=list)
    symbols: list[torch.Tensor] = field(default_factory=list)
    scores: list[torch.Tensor] = field(default_factory=list)

    def add(self, origin: torch.Tensor, symbol: torch.Tensor, score: torch.Tensor) -> None:
        """Records a step, in as few bytes as it needs: a long recording has many."""
        self.origins.append(origin.to(torch.int16))
        self.symbols.append(symbol.to(torch.int32))
        self.scores.append(score.float())


def hypotheses(
    finals: Sequence[Sequence[Final]], trace: Trace, *, synchronous: bool, frame_shift_s: float
) -> list[list[Hypothesis]]:
    """The hypotheses (B lists) that the finals end.

    Args:
        finals: by utterance, best first.
        trace: all steps of the search.
        synchronous: whether each step is a frame; otherwise a blank is.
        frame_shift_s: seconds between frames.
    """
    flat = [(b, final) for b, of_utterance in enumerate(finals) for final in of_utterance]
    utterance = torch.tensor([b for b, _ in flat], dtype=torch.int64)
    place = torch.tensor([final.place for _, final in flat], dtype=torch.int64)
    steps = torch.tensor([final.steps for _, final in flat], dtype=torch.int64)
    number = max((final.steps for _, final in flat), default=0)
    symbols = torch.zeros(len(flat), number, dtype=torch.int64)
    scores = torch.zeros(len(flat), number)
    for i in reversed(range(number)):
        there = i < steps
        at = utterance, torch.where(there, place, 0)
        symbols[:, i] = torch.where(there, trace.symbols[i].cpu()[at].long(), 0)
        scores[:, i] = trace.scores[i].cpu()[at]
        place = torch.where(there, trace.origins[i].cpu()[at].long(), place)
    is_label = symbols > 0
    frames = torch.arange(number).expand(len(flat), -1) if synchronous else (~is_label).cumsum(1)
    found: list[list[Hypothesis]] = [[] for _ in finals]
    for n, (b, final) in enumerate(flat):
        keep = is_label[n]
        found[b].append(
            Hypothesis(
                tokens=symbols[n, keep].tolist(),
                score=final.score,
                token_times=[frame * frame_shift_s for frame in frames[n, keep].tolist()],
                token_scores=scores[n, keep].tolist(),
                parts=final.parts,
            )
        )
    return found
