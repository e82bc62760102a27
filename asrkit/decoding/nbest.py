"""n-best lists: words with times and confidences, storage in cuts, and rescoring by a language model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from lhotse import CutSet
from lhotse.cut import Cut
from torch.nn.utils.rnn import pad_sequence

from asrkit.decoding.hypothesis import Hypothesis
from asrkit.models.language_model import LanguageModel, line_log_probs
from asrkit.text.tokenizer import Tokenizer, word_spans

SAME_TIME_S = 0.3
"""Words of two hypotheses are the same if their begins are at most this far apart."""
SYMBOL_S = 0.04
"""Assumed duration of the last symbol of a word."""


@dataclass(frozen=True)
class Word:
    """A word of a hypothesis."""

    word: str
    time: float
    """Time of its first symbol, in seconds."""
    end: float
    """End of its last symbol, or begin of the next word."""
    confidence: float
    """Between 0 and 1, see :func:`words`."""


def posteriors(nbest: Sequence[Hypothesis]) -> list[float]:
    """Each hypothesis' share of the probability of its list."""
    scores = torch.tensor([h.score for h in nbest], dtype=torch.float64)
    shares: list[float] = torch.softmax(scores, dim=0).tolist()
    return shares


def words(nbest: Sequence[Hypothesis], tokenizer: Tokenizer) -> list[list[Word]]:
    """The words of each hypothesis of a list, with times and confidences.

    A word's confidence is the posterior, within the list, of the hypotheses with the same word at the same time. For a
    list of one (greedy search) it is the geometric mean of the hypothesis' symbol probabilities.
    """
    spans = [_with_ends(word_spans(tokenizer, h.tokens, h.token_times)) for h in nbest]
    if len(nbest) == 1:
        mean_prob = math.exp(sum(nbest[0].token_scores) / max(1, len(nbest[0].token_scores)))
        return [[Word(word, time_s, end_s, mean_prob) for word, time_s, end_s in spans[0]]]
    shares = posteriors(nbest)

    def confidence(word: str, time_s: float) -> float:
        return min(
            1.0,
            sum(
                share
                for share, others in zip(shares, spans, strict=True)
                if any(other == word and abs(at_s - time_s) <= SAME_TIME_S for other, at_s, _ in others)
            ),
        )

    return [
        [Word(word, time_s, end_s, confidence(word, time_s)) for word, time_s, end_s in hypothesis_spans]
        for hypothesis_spans in spans
    ]


def _with_ends(spans: Sequence[tuple[str, float, float]]) -> list[tuple[str, float, float]]:
    """Words with begin and end, from the times of their first and last symbols."""
    nexts = [*(begin_s for _, begin_s, _ in spans[1:]), math.inf]
    return [
        (word, begin_s, min(last_s + SYMBOL_S, max(begin_s, next_s)))
        for (word, begin_s, last_s), next_s in zip(spans, nexts, strict=False)
    ]


def best_text(nbest: Sequence[Hypothesis], tokenizer: Tokenizer) -> str:
    """The text of a list's first hypothesis; empty if there is none."""
    return tokenizer.decode(nbest[0].tokens) if nbest else ""


def nbest_to_dicts(nbest: Sequence[Hypothesis], tokenizer: Tokenizer) -> list[dict[str, Any]]:
    """Plain values of a list, for a cut's custom field or for JSON."""
    return [
        {
            "text": tokenizer.decode(h.tokens),
            "score": round(h.score, 6),
            "parts": {name: round(value, 6) for name, value in h.parts.items()},
            "token_ids": h.tokens,
            "tokens": [tokenizer.symbol(token) for token in h.tokens],
            "token_times": [round(time_s, 4) for time_s in h.token_times],
            "token_scores": [round(score, 4) for score in h.token_scores],
            "words": [
                {
                    "word": w.word,
                    "time": round(w.time, 4),
                    "end": round(w.end, 4),
                    "confidence": round(w.confidence, 4),
                }
                for w in hypothesis_words
            ],
        }
        for h, hypothesis_words in zip(nbest, words(nbest, tokenizer) if nbest else [], strict=True)
    ]


def hypothesis_from_dict(values: dict[str, Any]) -> Hypothesis:
    """A hypothesis from :func:`nbest_to_dicts`, up to rounding."""
    return Hypothesis(
        values["token_ids"], values["score"], values["token_times"], values["token_scores"], dict(values["parts"])
    )


def attach_hypotheses(cuts: Sequence[Cut], nbest: Sequence[Sequence[Hypothesis]], tokenizer: Tokenizer) -> CutSet:
    """The cuts with their n-best lists in the custom field ``hypotheses``, best first."""
    decoded = []
    for cut, hypotheses in zip(cuts, nbest, strict=True):
        cut = cut.drop_features() if cut.has_features else cut
        decoded.append(cut.with_custom("hypotheses", nbest_to_dicts(hypotheses, tokenizer)))
    return CutSet.from_cuts(decoded)


@torch.inference_mode()
def rescore(nbest: Sequence[Hypothesis], model: LanguageModel, weight: float, length_weight: float) -> list[Hypothesis]:
    """A list ordered by score + ``weight`` · log p_lm(y </s>) + ``length_weight`` · |y|, best first.

    (The modified search orders its lists by score and length; here only the score counts.)

    Args:
        nbest: hypotheses of one utterance.
        model: a language model of the same symbols.
        weight: of its log probability.
        length_weight: per label.
    """
    log_probs = lm_log_probs(nbest, model, with_end=True)
    rescored = [
        replace(
            h,
            score=h.score + weight * log_prob + length_weight * len(h.tokens),
            parts=h.parts | {"rescoring_lm": log_prob},
        )
        for h, log_prob in zip(nbest, log_probs, strict=True)
    ]
    return sorted(rescored, key=lambda h: -h.score)


@torch.inference_mode()
def lm_log_probs(nbest: Sequence[Hypothesis], model: LanguageModel, with_end: bool) -> list[float]:
    """log p of each hypothesis by a language model; see :func:`line_log_probs`."""
    if not nbest:
        return []
    tokens = pad_sequence([torch.tensor(h.tokens, dtype=torch.int64) for h in nbest], batch_first=True)
    lens = torch.tensor([len(h.tokens) for h in nbest])
    log_probs: list[float] = line_log_probs(model, tokens, lens, with_end).tolist()
    return log_probs
