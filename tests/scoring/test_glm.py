"""NIST's rules, against what csrfilt.sh of SCTK prints where it is installed and written out where not."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from asrkit.errors import UserError
from asrkit.scoring.glm import filter_text, filter_word, read_rules
from asrkit.scoring.hub5 import hubscr_folder

TEXTS = {
    "uh hello um": "%HESITATION HELLO %HESITATION",
    "uh um uh uh": "%HESITATION %HESITATION %HESITATION %HESITATION",
    "duh umbrella": "DUH UMBRELLA",
    "(uh) yes": "(%HESITATION) YES",
    "(it is gonna) rain": "(IT) (IS) (GOING) (TO) RAIN",
    "mm-hm 'cause": "%BCACK BECAUSE",
    "well-known twenty-one": "WELL KNOWN TWENTY ONE",
    "de- -ty (we-) -": "DE- -TY (WE-) -",
    "an adviser advisers": "AN ADVISOR ADVISORS",
    "william falkner falkner": "WILLIAM FAULKNER FALKNER",
    "good by": "GOOD BYE",
    "ice cream": "ICECREAM",
    "nice creams": "NICE CREAMS",
    "okay tv": "O. K. T. V.",
    "it's he's": "{IT IS / IT'S / @} HE'S",
    "{ it is / it }": "{ IT IS / IT }",
    "": "",
}


@pytest.mark.parametrize("text", TEXTS)
def test_a_reference_is_rewritten(text: str, glm: Path) -> None:
    assert filter_text(text, read_rules(glm, "stm", "ref")) == TEXTS[text]


@pytest.mark.skipif(hubscr_folder() is None, reason="csrfilt.sh is not installed (tools/install_sctk.sh)")
def test_csrfilt_rewrites_alike(glm: Path) -> None:
    folder = str(hubscr_folder())
    stm = "".join(f"r A s 0.00 1.00 <O> {text}\n" for text in TEXTS)
    command = [f"{folder}/csrfilt.sh", "-i", "stm", "-t", "ref", "-dh", str(glm)]
    environment = os.environ | {"PATH": f"{folder}:{os.environ['PATH']}"}
    done = subprocess.run(command, input=stm, capture_output=True, text=True, env=environment, check=True)
    assert [line.partition("<O>")[2].strip() for line in done.stdout.splitlines()] == list(TEXTS.values())


@pytest.mark.parametrize(
    ("word", "ways"),
    [
        ("dog", [["DOG"]]),
        ("uh", [["%HESITATION"]]),
        ("gonna", [["GOING", "TO"]]),
        ("twenty-one", [["TWENTY", "ONE"]]),
        ("he's", [["HE", "IS"], ["HE", "HAS"]]),
        ("firm's", [["FIRM'S"], ["FIRM", "IS"], ["FIRM", "HAS"]]),
        ("it's", [["IT'S"]]),  # a rule for references
    ],
)
def test_the_ways_to_say_a_word(word: str, ways: list[list[str]], glm: Path) -> None:
    assert filter_word(word, read_rules(glm, "ctm", "hyp")) == ways


def test_what_no_rule_matches_may_go(tmp_path: Path) -> None:
    path = tmp_path / "rules.glm"
    path.write_text("# a comment flag of its own\n* copy_no_hit 'F'\n* case_sensitive 'T'\na => 1 # not A\n[b ] => 2\n")
    rules = read_rules(path, "stm", "ref")
    assert rules.apply("aAb b c") == "122"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (";;\nUH UM\n", r"rules.glm:2: expected a rule 'A => B' or 'A => B / C __ D', found 'UH UM'"),
        (";;\n* format 'NIST7'\n", "has rules in the format NIST7; only NIST1 is known"),
    ],
)
def test_a_line_that_is_no_rule_is_named(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "rules.glm").write_text(text)
    with pytest.raises(UserError, match=message):
        read_rules(tmp_path / "rules.glm", "stm", "ref")


def test_missing_rules_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none.glm is missing; it should hold NIST's rules"):
        read_rules(tmp_path / "none.glm", "stm", "ref")


@pytest.mark.parametrize("text", ["(uh", "uh)", "((uh))", ")uh("])
def test_parentheses_that_do_not_match(text: str, glm: Path) -> None:
    with pytest.raises(UserError, match="has parentheses that do not match"):
        filter_text(text, read_rules(glm, "stm", "ref"))
