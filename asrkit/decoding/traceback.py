"""From the arcs of a beam search back to label sequences with times."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch

from asrkit.decoding.hypothesis import Hypothesis

BLOCK = 256
"""Steps packed together."""


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


@dataclass(frozen=True)
class Step:
    """The arcs of one step, (N, K) each, of the N ``utterance`` (N,) whose beams took it."""

    utterance: torch.Tensor
    origin: torch.Tensor
    """Place in the previous beam."""
    symbol: torch.Tensor
    log_prob: torch.Tensor


class Trace:
    """All steps of a search, in as few bytes as they need: a long recording has a million of them.

    Steps with the same utterances are packed, :data:`BLOCK` at a time; a tensor for each would take ten times the
    memory of its content.
    """

    def __init__(self) -> None:
        self._steps: list[Step] = []
        """The newest, not yet packed."""
        self._blocks: list[Step] = []
        """Many steps in one: the arcs are (steps, N, K)."""

    def __len__(self) -> int:
        return sum(len(block.origin) for block in self._blocks) + len(self._steps)

    def add(self, utterance: torch.Tensor, origin: torch.Tensor, symbol: torch.Tensor, log_prob: torch.Tensor) -> None:
        """Records a step. ``utterance`` is kept without copying, so that steps with the same utterances share it."""
        if self._steps and (len(self._steps) == BLOCK or self._steps[-1].utterance is not utterance):
            self._pack()
        self._steps.append(Step(utterance, origin.to(torch.int16), symbol.to(torch.int32), log_prob.float()))

    def backwards(self) -> Iterator[Step]:
        """The steps on the CPU, newest first."""
        if self._steps:
            self._pack()
        for block in reversed(self._blocks):
            utterance, arcs = block.utterance.cpu(), (block.origin.cpu(), block.symbol.cpu(), block.log_prob.cpu())
            for origin, symbol, log_prob in zip(*(part.flip(0) for part in arcs), strict=True):
                yield Step(utterance, origin, symbol, log_prob)

    def _pack(self) -> None:
        arcs = (torch.stack([getattr(step, name) for step in self._steps]) for name in ("origin", "symbol", "log_prob"))
        self._blocks.append(Step(self._steps[0].utterance, *arcs))
        self._steps = []


def hypotheses(
    finals: Sequence[Sequence[Final]], trace: Trace, *, synchronous: bool, frame_shift_s: float
) -> list[list[Hypothesis]]:
    """The hypotheses (B lists) ending in the finals.

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
    symbols = torch.zeros(len(flat), number, dtype=torch.int32)
    scores = torch.zeros(len(flat), number)
    row = torch.zeros(len(finals), dtype=torch.int64)
    before: Step | None = None
    for i, step in zip(reversed(range(len(trace))), trace.backwards(), strict=True):
        if i >= number:
            continue
        if before is None or step.utterance is not before.utterance:
            row[step.utterance] = torch.arange(len(step.utterance))
        there, before = i < steps, step
        at = torch.where(there, row[utterance], 0), torch.where(there, place, 0)
        symbols[:, i] = torch.where(there, step.symbol[at], 0)
        scores[:, i] = step.log_prob[at]
        place = torch.where(there, step.origin[at].long(), place)
    is_label = symbols > 0
    frames = torch.arange(number).expand(len(flat), -1) if synchronous else (~is_label).cumsum(1)
    seconds = (frames.double() * frame_shift_s)[is_label]  # row by row
    columns = (symbols[is_label].tolist(), seconds.tolist(), scores[is_label].tolist())
    found: list[list[Hypothesis]] = [[] for _ in finals]
    first = 0
    for (b, final), labels in zip(flat, is_label.sum(1).tolist(), strict=True):
        tokens, times, token_scores = (column[first : first + labels] for column in columns)
        found[b].append(Hypothesis(tokens, final.score, times, token_scores, final.parts))
        first += labels
    return found
