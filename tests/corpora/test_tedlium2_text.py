from __future__ import annotations

import pytest

from asrkit.corpora.tedlium2 import normalize_tedlium

TEDLIUM: list[tuple[str, str]] = [
    (
        "i 'd like to share with you a discovery that i made a few months ago",
        "i'd like to share with you a discovery that i made a few months ago",
    ),
    (
        "because it doesn 't show the thickness of the ice",
        "because it doesn't show the thickness of the ice",
    ),
    ("they 're working on it", "they're working on it"),
    ("it 's it 's what we 've got", "it's it's what we've got"),
    ("that 's what she 'd say", "that's what she'd say"),
    ("we won 't and we can 't", "we won't and we can't"),
    ("they should 've known it 'll work", "they should've known it'll work"),
    ("there 're two of them", "there're two of them"),
    ("i 'm here today to show my photographs of the lakota", "i'm here today to show my photographs of the lakota"),
    ("the world 's largest ice sheet", "the world's largest ice sheet"),
    ("at nine o 'clock", "at nine o'clock"),
    ("y 'all came", "y'all came"),
    ("yes ma 'am", "yes ma'am"),
    ("d 'you know what i mean", "d'you know what i mean"),
    ("a café 's menu", "a café's menu"),
    ("tim o 'reilly 's talk", "tim o'reilly's talk"),
    ("who 'd 've thought", "who'd've thought"),
    ("just ' cause i can", "just 'cause i can"),
    ("back in the ' 60s", "back in the '60s"),
    ("in nineteen eighty four", "in nineteen eighty four"),
    ("a hundred and fifty million years ago", "a hundred and fifty million years ago"),
    ("in the twenty first century", "in the twenty first century"),
    ("one percent of the n i h budget", "one percent of the n i h budget"),
    ("dna is a code", "dna is a code"),
    ("<sil> um i mean uh", "um i mean uh"),
    ("<sil> thank you very much", "thank you very much"),
    ("<sil>", ""),
    ("let 's <sil> go", "let's go"),
    ("{NOISE} so", "so"),
    ("{BREATH} and {SMACK} then", "and then"),
    ("{COUGH}", ""),
    ("{UH} we {UM} started", "we started"),
    ("i {BREATH} i 'll tell you", "i i'll tell you"),
    ("i {UH} 'm not sure", "i'm not sure"),
    ("darwin 's theory {NOISE} wasn 't wrong", "darwin's theory wasn't wrong"),
    ("[NOISE] good morning", "good morning"),
    ("<unk> was born in kenya", "was born in kenya"),
    ("a man called <unk> <unk>", "a man called"),
    ("an <unk> of an idea", "an of an idea"),
    ("<unk> 's book about <unk>", "'s book about"),
    ("<sil> <unk> {NOISE}", ""),
    ("read(2) the(2) book", "read the book"),
    ("a(3) record(2) of it", "a record of it"),
    ("{SMACK} <sil> okay so(2) here 's the thing <sil>", "okay so here's the thing"),
    ("it 's read(2) aloud {BREATH} isn 't it", "it's read aloud isn't it"),
    (
        "<sil> many of you may have heard of the lakota (AaronHuey_2010X-14.17-20.34-F0_M-S0)",
        "many of you may have heard of the lakota",
    ),
]


@pytest.mark.parametrize(("text", "expected"), TEDLIUM)
def test_tedlium(text: str, expected: str) -> None:
    assert normalize_tedlium(text) == expected
