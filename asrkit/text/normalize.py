"""The canonical form of text, and the normalization rules of corpora and users."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable

from asrkit.errors import UserError

_SPHINX_MARKS = re.compile(r"</?s>|<sil>|\+\+\w+\+\+|\(\d+\)")
# Byte order marks, zero-width and soft breaks, and directional marks are not spoken. The joiners U+200C and U+200D
# are kept: they are part of the spelling of Persian and Indic languages.
_UNHEARD = dict.fromkeys(map(ord, "\ufeff\u200b\u2060\u00ad\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e"))
_UNHEARD |= dict.fromkeys(range(0x2066, 0x206A))
_LOOK_ALIKE = str.maketrans("’‘ʼ‛`´′“”„«»″‐‑‒–—―−…·", "'''''''\"\"\"\"\"\"-------.·")
RARE = 2
"""Characters that occur at most this often are reported."""


def canonical(text: str) -> str:
    """The form in which all text is compared: Unicode NFC, one space between words, no unspoken marks."""
    return " ".join(unicodedata.normalize("NFC", text.translate(_UNHEARD)).split())


_ALTERNATIVES = re.compile(r"\{ ([^{}]* / [^{}]*) \}")
"""``{ a / b / @ }`` in a reference, where ``@`` is the empty alternative."""


def shortest(text: str) -> str:
    """A reference with the shortest of its alternatives."""

    def choose(match: re.Match[str]) -> str:
        return min((part.replace("@", "").strip() for part in match[1].split(" / ")), key=len)

    return canonical(_ALTERNATIVES.sub(choose, text))


def each_alternative(text: str, change: Callable[[str], str]) -> str:
    """A reference with ``change`` applied to each alternative and to the text between."""
    pieces = []
    for n, piece in enumerate(_ALTERNATIVES.split(text)):
        if n % 2:
            parts = (part if part == "@" else change(part) for part in piece.split(" / "))
            pieces.append(f"{{ {' / '.join(parts)} }}")
        else:
            pieces.append(change(piece))
    return canonical(" ".join(pieces))


def normalize_an4(text: str) -> str:
    """AN4 (Sphinx) transcript to words: sentence marks, fillers and pronunciation numbers removed."""
    return canonical(_SPHINX_MARKS.sub(" ", text).upper())


def _without_punctuation(text: str) -> str:
    """Drops punctuation except apostrophes and hyphens inside words, and unifies their variants."""
    text = "".join(c.translate(_LOOK_ALIKE) if c in "’‘ʼ‛‐‑" else c for c in text)
    kept = (
        c if _is_inside_word(text, n) or not unicodedata.category(c).startswith(("P", "S")) else " "
        for n, c in enumerate(text)
    )
    return "".join(kept)


def _is_inside_word(text: str, n: int) -> bool:
    inside = 0 < n < len(text) - 1 and text[n - 1].isalnum() and text[n + 1].isalnum()
    return text[n] in "'-" and inside


RULES: dict[str, Callable[[str], str]] = {
    "lower": str.lower,
    "upper": str.upper,
    "no-punctuation": _without_punctuation,
    "split-digits": lambda text: re.sub(r"(?<=\d)(?=\d)", " ", text),
    "no-markers": lambda text: re.sub(r"<[^<>]*>|\[[^\[\]]*\]", " ", text),
}
"""Rules that ``--text-normalization`` may name, applied in the order given."""


def normalizer(rules: str) -> Callable[[str], str]:
    """A function that applies rules to a transcript and canonicalizes it.

    Args:
        rules: names of ``RULES`` joined by commas; empty for the canonical form alone.

    Raises:
        UserError: an unknown rule.
    """
    names = [name.strip() for name in rules.split(",") if name.strip()]
    for name in names:
        if name not in RULES:
            raise UserError(f"--text-normalization knows no '{name}'; the rules are {', '.join(RULES)}")

    def normalize(text: str) -> str:
        text = canonical(text)
        for name in names:
            text = RULES[name](text)
        return canonical(text)

    return normalize


def rare_characters(texts: Iterable[str]) -> list[tuple[str, int]]:
    """Characters that occur at most ``RARE`` times, with their counts, the rarest first."""
    counts = Counter(c for text in texts for c in text if c != " ")
    return sorted(((c, n) for c, n in counts.items() if n <= RARE), key=lambda item: (item[1], item[0]))


def look_alikes(texts: Iterable[str]) -> list[tuple[str, ...]]:
    """Groups of characters in the texts that look the same to a reader: apostrophe variants, full-width letters."""
    groups = defaultdict(set)
    for c in {c for text in texts for c in text}:
        groups[unicodedata.normalize("NFKC", c).translate(_LOOK_ALIKE)].add(c)
    return sorted(tuple(sorted(group)) for group in groups.values() if len(group) > 1)
