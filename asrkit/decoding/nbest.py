"""n-best lists: how sure their hypotheses are, and another order by another language model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch.nn.utils.rnn import pad_sequence

from asrkit.decoding.hypothesis import Hypothesis
from asrkit.models.language_model import LanguageModel, line_log_probs


def posteriors(nbest: Sequence[Hypothesis]) -> list[float]:
    """Share of each hypothesis in the probability of its list."""
    scores = torch.tensor([h.score for h in nbest], dtype=torch.float64)
    found: list[float] = torch.softmax(scores, dim=0).tolist()
    return found


@torch.inference_mode()
def rescore(nbest: Sequence[Hypothesis], model: LanguageModel, weight: float, length_weight: float) -> list[Hypothesis]:
    """A list in the order of score + ``weight`` · log p_lm(y </s>) + ``length_weight`` · |y|, best first.

    Args:
        nbest: hypotheses of one utterance.
        model: a language model of the same symbols.
        weight: of its log probability.
        length_weight: for each label.
    """
    if not nbest:
        return []
    tokens = pad_sequence([torch.tensor(h.tokens, dtype=torch.int64) for h in nbest], batch_first=True)
    lens = torch.tensor([len(h.tokens) for h in nbest])
    log_probs = line_log_probs(model, tokens, lens, with_end=True).tolist()
    rescored = [
        replace(
            h, score=h.score + weight * log_prob + length_weight * len(h.tokens),
            parts=h.parts | {"rescoring_lm": log_prob},
        )
        for h, log_prob in zip(nbest, log_probs, strict=True)
    ]  # fmt: skip
    return sorted(rescored, key=lambda h: -h.score)
