"""Hypotheses of a search."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Hypothesis:
    """One label sequence of an utterance."""

    tokens: list[int]
    score: float
    """Log probability, plus fusion."""
    token_times: list[float]
    """Time of each label, in seconds."""
    token_scores: list[float]
    """Log probability of each label at its frame."""
    parts: dict[str, float] = field(default_factory=dict)
    """The score's parts by name."""
