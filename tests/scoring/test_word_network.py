from __future__ import annotations

import pytest

from asrkit.errors import UserError
from asrkit.scoring.wer import Errors
from asrkit.scoring.word_network import align_networks, errors_of, network, parse


def errors(reference: str, hypothesis: str) -> Errors:
    return errors_of(align_networks(network(parse(reference)), network(parse(hypothesis))))


@pytest.mark.parametrize(
    ("reference", "hypothesis", "expected"),
    [
        ("a b c", "a x c d", Errors(3, 1, 0, 1)),
        ("", "a", Errors(0, 0, 0, 1)),
        ("a", "", Errors(1, 0, 1, 0)),
        ("", "", Errors()),
        ("A b", "a B", Errors(2)),
        # An optional word counts as a word of the reference, said or not; another one in its place is wrong.
        ("a (uh) b", "a b", Errors(3)),
        ("a (uh) b", "a uh b", Errors(3)),
        ("a (uh) b", "a x b", Errors(3, 1)),
        ("a b", "a (uh) b", Errors(3)),
        # A fragment is any word that begins, or ends, like it.
        ("de- here", "december here", Errors(2)),
        ("de- here", "no here", Errors(2, 1)),
        ("-ty here", "city here", Errors(2)),
        ("(de-) here", "here", Errors(2)),
        ("de- here", "here", Errors(2, 0, 1)),
        # Of alternatives the nearest counts, with its length.
        ("{ it is / it's } so", "it's so", Errors(2)),
        ("{ it is / it's } so", "it is so", Errors(3)),
        ("{ it is / it's } so", "is so", Errors(3, 0, 1)),
        ("a { b / @ } c", "a c", Errors(2)),
        ("a { b / @ } c", "a d c", Errors(2, 0, 0, 1)),
        ("a { b { c / d } / e } f", "a b d f", Errors(4)),
        ("x", "{ it is / x }", Errors(1)),
        ("word*", "word", Errors(1)),
    ],
)
def test_counts(reference: str, hypothesis: str, expected: Errors) -> None:
    assert errors(reference, hypothesis) == expected


def test_pairs_tell_what_was_aligned() -> None:
    pairs = align_networks(network(parse("a (uh) de- { b / c } d")), network(parse("a december c x d")))
    assert pairs == [("a", "a"), ("uh", "uh"), ("de-", "de-"), ("c", "c"), ("***", "x"), ("d", "d")]


@pytest.mark.parametrize("text", ["{ a / b", "a }", "{ a { b }"])
def test_braces_that_do_not_match(text: str) -> None:
    with pytest.raises(UserError, match="has braces that do not match"):
        parse(text)
