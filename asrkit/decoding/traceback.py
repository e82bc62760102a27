"""From the arcs of a beam search to label sequences with times."""

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
    """Its place in the last beam."""
    parts: dict[str, float] = field(default_factory=lambda: {"am": 0.0})


@dataclass(frozen=True)
class Step:
    """The arcs of one step, (N, K) each, of the utterances (N,)."""

    utterance: torch.Tensor
    origin: torch.Tensor
    """Place in the previous beam."""
    symbol: torch.Tensor
    log_prob: torch.Tensor


class Trace:
    """All steps of a search, stored compactly, as a long recording has a million of them.

    Steps with the same utterances are packed, :data:`BLOCK` at a time; a tensor for each would need ten times the
    memory.
    """

    def __init__(self) -> None:
        self._steps: list[Step] = []
        """The newest steps, not yet packed."""
        self._blocks: list[Step] = []
        """Packed steps; the arcs are (steps, N, K)."""

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
    """B lists of the hypotheses that end in the finals.

    Args:
        finals: by utterance, best first.
        trace: all steps of the search.
        synchronous: whether each step is a frame; otherwise each blank is.
        frame_shift_s: seconds between frames.
    """
    flat = [(b, final) for b, utterance_finals in enumerate(finals) for final in utterance_finals]
    utterance = torch.tensor([b for b, _ in flat], dtype=torch.int64)
    place = torch.tensor([final.place for _, final in flat], dtype=torch.int64)
    steps = torch.tensor([final.steps for _, final in flat], dtype=torch.int64)
    number = max((final.steps for _, final in flat), default=0)
    symbols = torch.zeros(len(flat), number, dtype=torch.int32)
    scores = torch.zeros(len(flat), number)
    row = torch.zeros(len(finals), dtype=torch.int64)
    previous: Step | None = None
    for i, step in zip(reversed(range(len(trace))), trace.backwards(), strict=True):
        if i >= number:
            continue
        if previous is None or step.utterance is not previous.utterance:
            row[step.utterance] = torch.arange(len(step.utterance))
        active, previous = i < steps, step
        index = torch.where(active, row[utterance], 0), torch.where(active, place, 0)
        symbols[:, i] = torch.where(active, step.symbol[index], 0)
        scores[:, i] = step.log_prob[index]
        place = torch.where(active, step.origin[index].long(), place)
    is_label = symbols > 0
    frames = torch.arange(number).expand(len(flat), -1) if synchronous else (~is_label).cumsum(1)
    seconds = (frames.double() * frame_shift_s)[is_label]  # row by row
    columns = (symbols[is_label].tolist(), seconds.tolist(), scores[is_label].tolist())
    lists: list[list[Hypothesis]] = [[] for _ in finals]
    first = 0
    for (b, final), labels in zip(flat, is_label.sum(1).tolist(), strict=True):
        tokens, times, token_scores = (column[first : first + labels] for column in columns)
        lists[b].append(Hypothesis(tokens, final.score, times, token_scores, final.parts))
        first += labels
    return lists
