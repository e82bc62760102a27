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
    """For each step and each place of the beams that it had, (N, K): the place before it, the symbol, and its log
    probability."""

    utterances: list[torch.Tensor] = field(default_factory=list)
    """(N,) whose beams."""
    origins: list[torch.Tensor] = field(default_factory=list)
    symbols: list[torch.Tensor] = field(default_factory=list)
    scores: list[torch.Tensor] = field(default_factory=list)

    def add(self, utterance: torch.Tensor, origin: torch.Tensor, symbol: torch.Tensor, score: torch.Tensor) -> None:
        """Records a step, in as few bytes as it needs: a long recording has many.

        ``utterance`` is kept as it is, so that steps with the same utterances share it.
        """
        self.utterances.append(utterance)
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
    row = torch.zeros(len(finals), dtype=torch.int64)
    for i in reversed(range(number)):
        if i + 1 == number or trace.utterances[i] is not trace.utterances[i + 1]:
            row[trace.utterances[i].cpu()] = torch.arange(len(trace.utterances[i]))
        there = i < steps
        at = torch.where(there, row[utterance], 0), torch.where(there, place, 0)
        symbols[:, i] = torch.where(there, trace.symbols[i].cpu()[at].long(), 0)
        scores[:, i] = trace.scores[i].cpu()[at]
        place = torch.where(there, trace.origins[i].cpu()[at].long(), place)
    is_label = symbols > 0
    frames = torch.arange(number).expand(len(flat), -1) if synchronous else (~is_label).cumsum(1)
    seconds = (frames.double() * frame_shift_s)[is_label]  # row after row
    columns = (symbols[is_label].tolist(), seconds.tolist(), scores[is_label].tolist())
    found: list[list[Hypothesis]] = [[] for _ in finals]
    first = 0
    for (b, final), labels in zip(flat, is_label.sum(1).tolist(), strict=True):
        tokens, times, token_scores = (column[first : first + labels] for column in columns)
        found[b].append(Hypothesis(tokens, final.score, times, token_scores, final.parts))
        first += labels
    return found
