from __future__ import annotations

import math

import pytest

from asrkit.decoding.hypothesis import Hypothesis
from asrkit.decoding.nbest import words
from asrkit.text.tokenizer import CharTokenizer

TOKENIZER = CharTokenizer(("<blank>", "A", "B", "▁"))


def test_confidences_are_shares_of_the_list() -> None:
    """ "A B" has 3/4 of the probability and "A A" 1/4; both begin alike."""
    nbest = [
        Hypothesis([1, 3, 2], math.log(0.6), [0.1, 0.3, 0.4], [0.0] * 3, {}),
        Hypothesis([1, 3, 1], math.log(0.2), [0.1, 0.3, 0.4], [0.0] * 3, {}),
    ]
    found = [[(w.word, w.confidence) for w in of_one] for of_one in words(nbest, TOKENIZER)]
    assert [[word for word, _ in of_one] for of_one in found] == [["A", "B"], ["A", "A"]]
    assert [c for of_one in found for _, c in of_one] == pytest.approx([1.0, 0.75, 1.0, 0.25])


def test_greedys_confidence_is_its_symbols_geometric_mean() -> None:
    alone = Hypothesis([1, 2], -1.0, [0.1, 0.2], [math.log(0.9), math.log(0.4)], {})
    assert [w.confidence for w in words([alone], TOKENIZER)[0]] == pytest.approx([0.6])
