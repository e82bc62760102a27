from __future__ import annotations

import json

import pytest

from asrkit.errors import UserError
from asrkit.symbols import BLANK_ID
from asrkit.text.normalize import normalize_an4
from asrkit.text.tokenizer import Tokenizer, tokenizer_from_dict, train_tokenizer, words_with_times

TEXTS = ["ONE TWO THREE", "THREE TWO ONE", "TWENTY ONE", "THIRTY TWO HUNDRED", "ERASE O N E"] * 20


@pytest.fixture(params=["char", "unigram", "bpe"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return train_tokenizer(TEXTS, request.param, 22)


def test_round_trip(tokenizer: Tokenizer) -> None:
    for text in TEXTS[:5]:
        tokens = tokenizer.encode(text)
        assert BLANK_ID not in tokens and max(tokens) < tokenizer.vocab_size
        assert tokenizer.decode(tokens) == text
    assert tokenizer.decode([]) == ""


def test_the_same_after_json(tokenizer: Tokenizer) -> None:
    again = tokenizer_from_dict(json.loads(json.dumps(tokenizer.to_dict())))
    assert again.vocab_size == tokenizer.vocab_size
    assert again.encode(TEXTS[0]) == tokenizer.encode(TEXTS[0])


def test_unknown_character_is_named(tokenizer: Tokenizer) -> None:
    with pytest.raises(UserError, match=r"'.*Ü.*'"):
        tokenizer.encode("ONE Ü")


def test_words_take_the_time_of_their_first_symbol(tokenizer: Tokenizer) -> None:
    tokens = tokenizer.encode("THREE TWO")
    words = words_with_times(tokenizer, tokens, [0.1 * i for i in range(len(tokens))])
    assert [word for word, _ in words] == ["THREE", "TWO"]
    assert words[0][1] == 0.0 and words[1][1] > 0.0


def test_too_many_symbols_names_the_setting() -> None:
    with pytest.raises(UserError, match=r"tokenizer\.vocab_size"):
        train_tokenizer(TEXTS, "unigram", 5000)


def test_an4_transcripts_lose_their_marks() -> None:
    assert normalize_an4("<s> yes A(2) ++BREATH++ go </s>") == "YES A GO"
