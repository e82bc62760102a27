"""What a search returns."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Hypothesis:
    """One label sequence of an utterance."""

    tokens: list[int]
    score: float
    """Log probability, plus whatever the search adds to it."""
    token_times: list[float]
    """When each label was emitted, in seconds."""
    token_scores: list[float]
    """Log probability of each label where it was emitted."""
    parts: dict[str, float] = field(default_factory=dict)
    """The score's parts by name."""
