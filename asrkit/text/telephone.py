"""Transcripts of telephone speech for training and scoring: Switchboard, Fisher, CallHome, Hub5.

All are in lower case, without noises. Broken-off words end (or begin) with a hyphen, and acronyms are single letters.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

from asrkit.text.normalize import canonical

HESITATIONS = (
    *("uh", "um", "eh", "mm", "hm", "ah", "huh", "ha", "er", "oof", "hee", "ach", "eee", "ew"),
    "%hesitation",
)
"""Hub5 scores these as one hesitation, which may be missing from a hypothesis."""
_LETTERS = dict(
    zip(
        "ABCDEFGHIJKLMNOPQRSTUVWXYZ",
        (
            *("ey", "b iy", "s iy", "d iy", "iy", "eh f", "jh iy", "ey ch", "ay", "jh ey", "k ey", "eh l", "eh m"),
            *("eh n", "ow", "p iy", "k y uw", "aa r", "eh s", "t iy", "y uw", "v iy", "d ah b ax l y uw", "eh k s"),
            *("w ay", "z iy"),
        ),
        strict=True,
    )
)
"""Their names in the phones of the Mississippi State dictionary."""
_ASIDE = re.compile(r"</?[be]_aside>")
_NOISES = ("[silence]", "[noise]", "[laughter]", "[vocalized-noise]")
_ACRONYM = re.compile(r"\b(?:[a-z]\._?)+(?:[a-z]\.)?('?s)?(?=[\s,?!]|$)")
_FOREIGN = re.compile(r"<(?:[a-z]+|\?)\s+([^<>]*)>")


def normalize_switchboard(text: str, acronyms: Collection[str] = ()) -> str:
    """A line of the Mississippi State transcripts of Switchboard (MS98).

    If two forms are given, the spoken one is kept, as in Kaldi's recipe ``swbd/s5c``: ``[laughter-story]`` is
    ``story``, ``[it'n/isn't]`` is ``it'n``, ``ab[solute]-`` is ``ab-``, ``{yuppiedom}`` is ``yuppiedom`` and
    ``them_1`` is ``them``. Acronyms, which the transcripts write as a word, become letters: ``IBM's`` is ``i b m's``.

    Args:
        text: the line.
        acronyms: from :func:`read_acronyms`.
    """
    words = _ASIDE.sub(" ", " ".join(_letters(word, acronyms) for word in text.split()).lower()).split()
    return canonical(" ".join(_switchboard_word(word) for word in words if word not in _NOISES))


def _letters(word: str, acronyms: Collection[str]) -> str:
    """``IBM`` as ``I B M``, ``IBMs`` and ``IBM's`` as ``I B M's``; other words as they are."""
    match = re.fullmatch(r"([A-Z]+)('?s)?", word)
    if match and match[1] in acronyms:
        return " ".join(match[1]) + ("'s" if match[2] else "")
    return word


def read_acronyms(dictionary: Iterable[str]) -> set[str]:
    """The words of the Mississippi State dictionary, ``word phone …``, that are pronounced letter by letter."""
    acronyms = set()
    for line in dictionary:
        word, _, phones = line.partition(" ")
        if re.fullmatch(r"[A-Z]{2,}", word) and phones.split() == " ".join(_LETTERS[c] for c in word).split():
            acronyms.add(word)
    return acronyms


def _switchboard_word(word: str) -> str:
    word = re.sub(r"^(-?)\[laughter-(.+)\](-?)$", r"\1\2\3", word)
    word = re.sub(r"^\[?(.+)/.+\](-?)$", r"\1\2", word)  # said / meant
    word = re.sub(r"^-?\[[^\[\]]+\](.+)$", r"-\1", word)  # the beginning is missing
    word = re.sub(r"^([^\[\]]+)\[[^\[\]]+\]([a-z'].*)$", r"\1-\2", word)  # the middle
    word = re.sub(r"^(.+)\[[^\[\]]+\]-?$", r"\1-", word)  # the end
    word = re.sub(r"^\{(.+)\}$", r"\1", word)  # coined
    return re.sub(r"_\d", "", word)  # another pronunciation


def normalize_fisher(text: str) -> str:
    """A line of the Fisher transcripts: noises dropped, ``c._n._n.`` spelled ``c n n``."""
    text = re.sub(r"\[\[?[^\[\]]*\]?\]|\(\(|\)\)", " ", text.lower())
    text = spelled(_FOREIGN.sub(r"\1", text))
    return canonical(re.sub(r"[?!,._*]|(^|\s)-(?=\s|$)", " ", text))


def normalize_callhome(text: str) -> str:
    """A line of the CallHome transcripts: noises, remarks and marks of names and coined words dropped."""
    text = re.sub(r'\{[^{}]*\}|\[\[?[^\[\]]*\]?\]|\(\(|\)\)|//|[#"]', " ", text.lower())
    text = _FOREIGN.sub(r"\1", text)
    text = re.sub(r"(^|\s)[%&+*]+|[+*]+(?=[\s.,?!]|$)", r"\1", text)
    text = re.sub(r"(^|\s)--(?=\s|$)", r"\1", spelled(text))
    return canonical(re.sub(r"[?!,]|\.(?=\s|$)", " ", text))


def normalize_hub5(text: str) -> str:
    """The words of a reference segment of Hub5 or RT'03, with alternatives as ``asrkit score`` reads them.

    ``(oh)``, broken-off words and hesitations are optional: they become ``{ oh / @ }``, and all hesitations are
    alternatives of each other. Alternatives in the reference are kept. The official scores, with NIST's rules for
    contractions and compounds, come from ``asrkit score --glm``.
    """
    text = re.sub(r"[{}/]", r" \g<0> ", _ASIDE.sub(" ", text.lower()))
    text = re.sub(r"\(([^(){}\s]+(?: +[^(){}\s]+)+)\)", r"{ \1 / @ }", spelled(text))  # several words may be missing
    parts = re.split(r"(\{[^{}]*\})", text)
    words = (part if part.startswith("{") else " ".join(map(_hub5_word, part.split())) for part in parts)
    return canonical(" ".join(words))


def _hub5_word(word: str) -> str:
    bare = re.sub(r"^\(+|\)+$", "", word)
    if bare in HESITATIONS or bare.removeprefix("%") in HESITATIONS:
        return "{ " + " / ".join([*HESITATIONS[:-1], "@"]) + " }"
    is_optional = bare != word or (len(bare) > 1 and (bare.endswith("-") or bare.startswith("-")))
    return f"{{ {bare} / @ }}" if is_optional and bare else bare


def spelled(text: str) -> str:
    """Acronyms with points as single letters."""

    def letters(match: re.Match[str]) -> str:
        return " ".join(re.findall(r"[a-z](?=\.)", match[0])) + ("'s" if match[1] else "")

    return _ACRONYM.sub(letters, text)
