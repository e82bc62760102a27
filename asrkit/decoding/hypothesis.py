"""What a search returns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from lhotse import CutSet
from lhotse.cut import Cut

from asrkit.text.tokenizer import Tokenizer, words_with_times


@dataclass(frozen=True)
class Hypothesis:
    """One label sequence of an utterance."""

    tokens: list[int]
    score: float
    """Log probability, with whatever the search adds to it."""
    token_times: list[float]
    """When each label was emitted, in seconds."""
    token_scores: list[float]
    """Log probability of each label where it was emitted."""
    parts: dict[str, float] = field(default_factory=dict)
    """The score's parts by name."""

    def to_dict(self, tokenizer: Tokenizer) -> dict[str, Any]:
        """Plain values for a cut's custom field or for JSON."""
        return {
            "text": tokenizer.decode(self.tokens),
            "score": round(self.score, 6),
            "parts": {name: round(value, 6) for name, value in self.parts.items()},
            "token_ids": self.tokens,
            "tokens": [tokenizer.symbol(token) for token in self.tokens],
            "token_times": [round(time_s, 4) for time_s in self.token_times],
            "token_scores": [round(score, 4) for score in self.token_scores],
            "words": [
                {"word": word, "time": round(time_s, 4)}
                for word, time_s in words_with_times(tokenizer, self.tokens, self.token_times)
            ],
        }


def hypothesis_from_dict(values: dict[str, Any]) -> Hypothesis:
    """What :meth:`Hypothesis.to_dict` wrote, as far as it is rounded."""
    return Hypothesis(
        values["token_ids"], values["score"], values["token_times"], values["token_scores"], dict(values["parts"])
    )


def attach_hypotheses(cuts: Sequence[Cut], nbest: Sequence[Sequence[Hypothesis]], tokenizer: Tokenizer) -> CutSet:
    """The cuts with their n-best lists in the custom field ``hypotheses``, best first."""
    decoded = []
    for cut, hypotheses in zip(cuts, nbest, strict=True):
        cut = cut.drop_features() if cut.has_features else cut
        decoded.append(cut.with_custom("hypotheses", [h.to_dict(tokenizer) for h in hypotheses]))
    return CutSet.from_cuts(decoded)
