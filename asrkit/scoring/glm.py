"""NIST's global mapping rules (GLM): equal spellings, contractions, hesitations and compounds before scoring.

A file of rules, such as those of Hub5 and RT'03, rewrites references and hypotheses alike: ``A => B / C __ D`` replaces
A by B between C and D. :func:`filter_text` does what NIST's ``csrfilt.sh -dh`` does (SCTK 2.4).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from asrkit.errors import UserError, shown

_KIND = re.compile(r';;\s+INPUT_DEPENDENT_APPLICATION\s*=\s*"([^"]*)"')
_VALUE = re.compile(r"[\"']([^\"']*)[\"']")
_OPTIONAL = re.compile(r"(\(\s+[^()\s]+\s+)([^()\s]+)")


@dataclass(frozen=True)
class Rule:
    """Replaces ``source`` by ``target`` between ``left`` and ``right``."""

    source: str
    target: str
    left: str = ""
    right: str = ""


@dataclass(frozen=True)
class Rules:
    """The rules of one kind of input."""

    by_first: dict[str, list[Rule]]
    """By the first character of the source. The first rule that matches is applied."""
    copy_no_hit: bool
    """Whether text that no rule matches is kept."""
    case_sensitive: bool

    def apply(self, text: str) -> str:
        """The text rewritten from left to right; it has to be in upper case unless case counts.

        Rules see the original text, not the output of other rules.
        """
        output = []
        i = 0
        while i < len(text):
            rule = next((rule for rule in self.by_first.get(text[i], ()) if _matches(rule, text, i)), None)
            if rule:
                output.append(rule.target)
                i += len(rule.source)
            else:
                output.append(text[i] if self.copy_no_hit else "")
                i += 1
        return "".join(output)


def _matches(rule: Rule, text: str, i: int) -> bool:
    end = i + len(rule.source)
    return text.startswith(rule.source, i) and text.endswith(rule.left, 0, i) and text.startswith(rule.right, end)


def read_rules(path: Path, kind: str, purpose: str) -> Rules:
    """The rules of a file that apply to a kind of input.

    Args:
        path: of the GLM.
        kind: ``stm`` or ``ctm``.
        purpose: ``ref`` or ``hyp``.

    Raises:
        UserError: the file is missing, a line is not a rule, or the format is unknown.
    """
    if not path.is_file():
        raise UserError(f"{path} is missing; it should hold NIST's rules (GLM)")
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()  # comments may be in another encoding
    comment = lines[0].split()[0] if lines and lines[0].split() else ""
    settings = {"COPY_NO_HIT": "T", "CASE_SENSITIVE": "T", "FORMAT": "NIST1"}
    rules = []
    applies = True
    for number, line in enumerate(lines[1:], 2):
        if match := _KIND.match(line):
            applies = any(re.search(match[1].lower(), word) for word in (kind, purpose))
        elif not applies or not line.strip() or (comment and line.startswith(comment)):
            continue
        elif line.startswith("*"):
            if value := _VALUE.search(line):
                settings |= {name: value[1].upper() for name in settings if name in line.upper()}
        else:
            rules.append(_rule(line.partition(comment)[0] if comment else line, f"{path}:{number}"))
    if settings["FORMAT"] != "NIST1":
        raise UserError(f"{path} has rules in the format {settings['FORMAT']}; only NIST1 is known")
    return _indexed(rules, *(settings[name] in ("T", "YES", "TRUE") for name in ("COPY_NO_HIT", "CASE_SENSITIVE")))


def _indexed(rules: Iterable[Rule], copy_no_hit: bool, case_sensitive: bool) -> Rules:
    by_first: dict[str, list[Rule]] = {}
    for rule in rules:
        if not case_sensitive:
            rule = Rule(rule.source.upper(), rule.target, rule.left.upper(), rule.right.upper())
        if rule.source:
            by_first.setdefault(rule.source[0], []).append(rule)
    return Rules(by_first, copy_no_hit, case_sensitive)


def _rule(line: str, where: str) -> Rule:
    source, arrow, rest = line.partition("=>")
    if not arrow:
        raise UserError(f"{where}: expected a rule 'A => B' or 'A => B / C __ D', found '{shown(line.strip()[:60])}'")
    target, slash, context = rest.rpartition("/")
    closed, opened = context.find("]"), context.find("[")
    if not slash or (opened >= 0 and closed < opened):  # the slash separates alternatives in brackets
        return Rule(_unquoted(source), _unquoted(rest))
    left, _, right = context.partition("_") if "_" in context else ("", "", "")
    return Rule(_unquoted(source), _unquoted(target), _unquoted(left), _unquoted(right.lstrip("_")))


def _unquoted(text: str) -> str:
    """The text without the brackets or quotation marks that protect its spaces."""
    text = text.strip()
    is_quoted = len(text) > 1 and text[0] + text[-1] in ("[]", '""')
    return text[1:-1] if is_quoted else text


def filter_text(text: str, rules: Rules) -> str:
    """The text in upper case, rewritten by rules, with hyphenated words and ``(optional groups)`` split into words.

    Raises:
        UserError: parentheses that do not match.
    """
    text = re.sub(r"\s+", " ", f" {text} ").upper().replace("(", "( ").replace(")", " )")
    if re.search("[()]", re.sub(r"\([^()]+\)", "", text)):
        raise UserError(f"'{shown(text.strip()[:80])}' has parentheses that do not match")
    text = rules.apply(f" {text} ")
    text = re.sub(r"([^( ])-(?=[^) ])", r"\1 ", text)
    while (separated := _OPTIONAL.sub(r"\1) ( \2", text, count=1)) != text:
        text = separated
    text = re.sub(r"\s+\)", ")", re.sub(r"\(\s+", "(", text))
    return " ".join(text.split())


def filter_word(word: str, rules: Rules) -> list[list[str]]:
    """The ways to say a word of a hypothesis, each a list of words; one in most cases.

    A rule that writes ``{HE IS / HE HAS}`` gives two. As in NIST's programs, rules see the word without its neighbours.
    """
    text = filter_text(word, rules)
    words = re.sub("([{}])", r" \1 ", text).split()
    if len(words) > 1 and re.fullmatch(r"[0-9.-]*", words[-1]):  # csrfilt.sh reads it as a confidence
        words.pop()
    alternatives = (
        [re.sub("[{}]", "", part).split() for part in " ".join(words).split("/")] if len(words) > 1 else [words]
    )
    return [words for words in alternatives if words]
