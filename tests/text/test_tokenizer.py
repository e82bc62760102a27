from __future__ import annotations

import json

import pytest

from asrkit.errors import UserError
from asrkit.symbols import BLANK_ID
from asrkit.text.normalize import canonical, look_alikes, normalize_an4, normalizer, rare_characters
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
    for kind in ("unigram", "bpe"):
        message = r"set tokenizer\.vocab_size=\d+ or less, or tokenizer\.soft_limit=true"
        with pytest.raises(UserError, match=message) as caught:
            train_tokenizer(TEXTS, kind, 5000)
        assert ".cc" not in str(caught.value) and "--" not in str(caught.value)
        assert 5 < train_tokenizer(TEXTS, kind, 5000, soft_limit=True).vocab_size < 5000


def test_too_few_symbols_for_the_alphabet_name_the_number() -> None:
    with pytest.raises(UserError, match=r"they hold \d+ characters: set tokenizer\.vocab_size to more than"):
        train_tokenizer(TEXTS, "bpe", 3)


def test_characters_of_long_transcripts_can_be_spelled() -> None:
    long = "WORD " * 1200 + "Ж"
    assert train_tokenizer([long, "WORD SHORT"] * 3, "bpe", 14).encode("Ж")


def test_an4_transcripts_lose_their_marks() -> None:
    assert normalize_an4("<s> yes A(2) ++BREATH++ go </s>") == "YES A GO"


@pytest.mark.parametrize(
    "text, expected",
    [
        ("e\u0301te\u0301", "été"),
        ("\ufeff\u200fשלום\u200f", "שלום"),
        ("a\u00a0b\u2003c\td\u3000e", "a b c d e"),
        ("zero\u200bwidth soft\u00adhyphen", "zerowidth softhyphen"),
        ("می\u200cروم", "می\u200cروم"),
        ("  ", ""),
    ],
)
def test_text_has_one_canonical_form(text: str, expected: str) -> None:
    assert canonical(text) == expected == canonical(expected)


def test_rules_for_transcripts() -> None:
    normalize = normalizer("no-markers,no-punctuation,upper,split-digits")
    said = normalize("It’s a “well-known” <unk> trick -- isn't it? 1984 [noise]")
    assert said == "IT'S A WELL-KNOWN TRICK ISN'T IT 1 9 8 4"
    assert normalizer("")(" Été  ") == "Été"
    with pytest.raises(UserError, match="knows no 'shout'"):
        normalizer("lower,shout")


def test_characters_worth_a_look() -> None:
    assert rare_characters(["AAA B", "CC B"]) == [("B", 2), ("C", 2)]
    assert look_alikes(["it's it’s", "Ａ A"]) == [("'", "’"), ("A", "Ａ")]
