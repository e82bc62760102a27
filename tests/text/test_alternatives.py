from __future__ import annotations

from asrkit.text.normalize import each_alternative, normalizer, shortest


def test_rules_are_applied_within_alternatives() -> None:
    text = "Well, { um / uh / @ } it's { A / B C } ok."
    assert each_alternative(text, normalizer("no-punctuation,lower")) == "well { um / uh / @ } it's { a / b c } ok"
    assert shortest(text) == "Well, it's A ok."
    assert each_alternative("{ no alternatives }", normalizer("no-punctuation")) == "no alternatives"
