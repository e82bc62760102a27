"""Metrics of retrieval on ranks known by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from asrkit.retrieval.metrics import bootstrap_mean, discounted_gains, gold_rank, recall_at, reciprocal_ranks

RANKS = np.array([1, 3, 11])


def test_ranks_by_hand() -> None:
    assert recall_at(RANKS, 1).mean() == pytest.approx(0.333, abs=5e-4)
    assert recall_at(RANKS, 10).mean() == pytest.approx(0.667, abs=5e-4)
    assert reciprocal_ranks(RANKS).mean() == pytest.approx(0.4747, abs=5e-5)
    assert reciprocal_ranks(RANKS, 10).mean() == pytest.approx(0.4444, abs=5e-5)
    assert discounted_gains(RANKS).tolist() == pytest.approx([1.0, 0.5, 0.0])
    assert reciprocal_ranks(np.array([math.inf])).tolist() == [0.0]


def test_ties_are_counted_against_the_gold() -> None:
    passages, scores = np.array([7, 2, 5, 9]), np.array([0.9, 0.5, 0.5, 0.1])
    assert gold_rank(passages, scores, 7) == 1
    assert gold_rank(passages, scores, 2) == gold_rank(passages, scores, 5) == 3
    assert gold_rank(passages, scores, 4) == math.inf


def test_bootstrap_of_differences() -> None:
    generator = np.random.default_rng(0)
    base = generator.random(400)
    better = bootstrap_mean((base + 0.1 + 0.05 * generator.normal(size=400)) - base)
    assert better.low > 0.08 and better.high < 0.12
    assert better.high - better.low == pytest.approx(2 * 1.96 * 0.05 / 20, rel=0.1)
    same = bootstrap_mean(0.5 * generator.normal(size=400))
    assert same.low < 0 < same.high
    assert str(bootstrap_mean(np.ones(5))) == "1.000 [1.000, 1.000]"
