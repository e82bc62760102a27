from __future__ import annotations

import random
import re
import shutil
import subprocess
import tracemalloc
from pathlib import Path

import jiwer
import numpy as np
import pytest
from click.testing import CliRunner

from asrkit.cli.main import cli
from asrkit.errors import UserError
from asrkit.scoring.alignment import align, count
from asrkit.scoring.nist import choose_alternatives, read_trn, write_trn
from asrkit.scoring.report import headline, score_folder, score_trn, summary, text_report
from asrkit.scoring.significance import bootstrap_interval
from asrkit.scoring.wer import Errors, Score, count_errors, oracle, score_utterance, word_error_rate

SCLITE = ["sclite"] if shutil.which("sclite") else ["sctk", "sclite"] if shutil.which("sctk") else None


def noisy_pairs(number: int, seed: int) -> list[tuple[str, str]]:
    """Random references and hypotheses with substitutions, deletions and insertions."""
    rng = random.Random(seed)
    words = ["ONE", "TWO", "THREE", "FOUR", "FIVE", "A", "B", "C"]
    pairs = []
    for _ in range(number):
        ref = [rng.choice(words) for _ in range(rng.randint(1, 12))]
        hyp = []
        for word in ref:
            draw = rng.random()
            if draw < 0.7:
                hyp.append(word)
            elif draw < 0.85:
                hyp.append(rng.choice(words))
            if rng.random() < 0.15:
                hyp.append(rng.choice(words))
        pairs.append((" ".join(ref), " ".join(hyp)))
    return pairs


def test_counts_of_a_known_alignment() -> None:
    u = score_utterance("u", "s", "A B C D", "A X C D E")
    assert u.pairs == [("A", "A"), ("B", "X"), ("C", "C"), ("D", "D"), ("***", "E")]
    assert (u.words.substitutions, u.words.deletions, u.words.insertions) == (1, 0, 1)
    assert u.words.rate == 50.0


def test_empty_sides() -> None:
    assert score_utterance("u", "s", "A", "").words == Errors(1, 0, 1, 0)
    assert score_utterance("u", "s", "", "A").words == Errors(0, 0, 0, 1)
    assert score_utterance("u", "s", "", "").words == Errors(0, 0, 0, 0)


def test_ties_in_cost_have_the_fewest_errors() -> None:
    # Three substitutions and two insertions with two deletions both cost 12.
    assert score_utterance("u", "s", "A B C", "X Y A").words == Errors(3, 3, 0, 0)


def test_wer_and_cer_are_jiwers_where_costs_cannot_differ() -> None:
    pairs = [("A B C", "A C"), ("D E", "D E F"), ("G H I J", "G X I J")]
    refs, hyps = [p[0] for p in pairs], [p[1] for p in pairs]
    assert word_error_rate(pairs) == pytest.approx(100 * jiwer.wer(refs, hyps))
    scored = Score([score_utterance(str(i), "s", *p) for i, p in enumerate(pairs)])
    joined = [r.replace(" ", "") for r in refs], [h.replace(" ", "") for h in hyps]
    assert scored.characters.rate == pytest.approx(100 * jiwer.cer(*joined))


NEEDS_SCLITE = pytest.mark.skipif(SCLITE is None, reason="NIST sclite is not installed (tools/install_sctk.sh)")


def sclite_totals(folder: Path, ids: str, *options: str) -> dict[str, list[int]]:
    """Sentences, words, correct, substitutions, deletions, insertions, errors, wrong sentences, by speaker and Sum."""
    assert SCLITE is not None
    command = [*SCLITE, "-r", "ref.trn", "trn", "-h", "hyp.trn", "trn", "-i", ids, "-o", "rsum", "stdout", *options]
    printed = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout
    return {
        row[1]: [int(x) for x in re.findall(r"\d+", row[2] + row[3])]
        for row in re.findall(r"(\|\s*(\w+)\s*\|([\d\s]+)\|([\d\s]+)\|)", printed)
    }


CONVENTIONS = {
    "keys": (
        "late (anna-001)\na bell (anna_002)\nhome (ben-001)\n",
        "late (anna-001)\nbell (anna_002)\nhere (ben-001)\n",
    ),
    "comments": (";; by hand\nopen the door (s-a)\n\n;; (s-b)\nclose it (s-b)\n", "open door (s-a)\nclose it (s-b)\n"),
    "case": ("Meet me AT noon (s-a)\n", "meet me at Noon (s-a)\n"),
    "alternatives": (
        "so { uh / um / @ } we (uh) left (s-a)\nA { B C / D } E (s-b)\n{ A B / C } { D / E F } (s-c)\n",
        "so we left (s-a)\nA D E (s-b)\nC E (s-c)\n",
    ),
    "parentheses": ("the price (in euros) rose (s-a)\n", "the price (in euro) rose (s-a)\n"),
    "marks": ("\ufeffopen\tthe door (s-a)\r\n\r\nclose it  (s-b)\r\n", "open the door (s-a)\nclose it (s-b)\n"),
}


@NEEDS_SCLITE
@pytest.mark.parametrize("name", CONVENTIONS)
def test_conventions_are_sclites(name: str, tmp_path: Path) -> None:
    for file, text in zip(("ref.trn", "hyp.trn"), CONVENTIONS[name], strict=True):
        (tmp_path / file).write_text(text)
    for case_sensitive in (False, True):
        read = [read_trn(tmp_path / file, case_sensitive) for file in ("ref.trn", "hyp.trn")]
        e = score_trn(*read).words
        if name == "marks":
            assert e == Errors(5, 0, 0, 0)
            continue  # sclite takes the byte order mark for a part of the word
        theirs = sclite_totals(tmp_path, "spu_id", *(["-s"] if case_sensitive else []))["Sum"]
        assert [e.reference, e.substitutions, e.deletions, e.insertions] == [theirs[1], *theirs[3:6]]


def test_more_alternatives_than_can_be_combined_are_chosen_one_by_one() -> None:
    words = choose_alternatives(" ".join(f"{{ a{n} / b{n} c{n} / @ }}" for n in range(12)), ["a0", "b1", "c1", "a3"])
    assert words == ["a0", "b1", "c1", "a3"]
    with pytest.raises(UserError, match="braces that do not match"):
        choose_alternatives("a { b / c", ["a"])


def test_unicode_forms_and_marks_of_direction_are_no_errors(tmp_path: Path) -> None:
    (tmp_path / "ref.trn").write_text("cr\u00e8me br\u00fbl\u00e9e (s-a)\n\u200fשלום\u200f (s-b)\n")
    (tmp_path / "hyp.trn").write_text("cre\u0300me bru\u0302le\u0301e (s-a)\nשלום (s-b)\n")
    score = score_trn(read_trn(tmp_path / "ref.trn"), read_trn(tmp_path / "hyp.trn"))
    assert score.words == Errors(3, 0, 0, 0) and score.characters.total == 0


def test_a_rate_over_nothing_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "empty.trn").write_text("\n;; nothing\n")
    with pytest.raises(UserError, match="holds no utterances"):
        read_trn(tmp_path / "empty.trn")
    with pytest.raises(UserError, match="holds no word"):
        score_trn({"s-a": ("s", "")}, {"s-a": ("s", "noise")})
    with pytest.raises(UserError, match="hold no word"):
        word_error_rate([("", "A")])


@NEEDS_SCLITE
def test_every_total_is_sclites(tmp_path: Path) -> None:
    pairs = noisy_pairs(300, seed=1)
    ids = [(f"s{i % 7}", f"utt{i:04d}") for i in range(len(pairs))]
    write_trn(tmp_path / "ref.trn", [(p[0], *id) for p, id in zip(pairs, ids, strict=True)])
    write_trn(tmp_path / "hyp.trn", [(p[1], *id) for p, id in zip(pairs, ids, strict=True)])
    rows = sclite_totals(tmp_path, "rm")
    score = score_trn(read_trn(tmp_path / "ref.trn"), read_trn(tmp_path / "hyp.trn"))
    tables = {**score.by_speaker(), "Sum": score.words}
    wrong = {name: sum(u.words.total > 0 for u in score.utterances if u.speaker == name) for name in score.by_speaker()}
    wrong["Sum"] = sum(wrong.values())
    assert len(rows.keys() & tables.keys()) == 8
    for name, e in tables.items():
        sentences, words, correct, sub, deletions, insertions, errors, sentence_errors = rows[name]
        assert (words, sub, deletions, insertions, errors) == (
            e.reference,
            e.substitutions,
            e.deletions,
            e.insertions,
            e.total,
        )
        assert correct == e.reference - e.substitutions - e.deletions
        assert sentence_errors == wrong[name] and sentences >= sentence_errors


def test_bootstrap_covers_the_rate_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    covered = 0
    for trial in range(100):
        errors = [Errors(10, int(n), 0, 0) for n in generator.binomial(10, 0.2, size=80)]
        low, high = bootstrap_interval(errors, replications=500, seed=trial)
        covered += low <= 20.0 <= high
    assert 88 <= covered <= 100


def test_bootstrap_is_the_normal_interval_of_many_equal_utterances() -> None:
    errors = [Errors(1, i % 2, 0, 0) for i in range(400)]
    low, high = bootstrap_interval(errors)
    assert low == pytest.approx(50 - 196 * 0.5 / 20, abs=0.7) and high == pytest.approx(50 + 196 * 0.5 / 20, abs=0.7)


def test_trn_round_trip_and_its_errors(tmp_path: Path) -> None:
    lines = [("A B", "sp_1", "u-1"), ("", "sp_1", "u-2")]
    write_trn(tmp_path / "x.trn", lines)
    assert read_trn(tmp_path / "x.trn", True) == {"sp.1-u-1": ("sp.1", "A B"), "sp.1-u-2": ("sp.1", "")}
    (tmp_path / "bad.trn").write_text("A (s-1)\nB s-2\n")
    with pytest.raises(UserError, match=r"bad\.trn:2"):
        read_trn(tmp_path / "bad.trn")
    with pytest.raises(UserError, match=r"1 utterances have no hypothesis, such as sp\.1-u-2"):
        score_trn(read_trn(tmp_path / "x.trn"), {"sp.1-u-1": ("s", "A")})


def test_the_report_holds_speakers_confusions_and_alignments() -> None:
    reference = {"u1": ("s1", "A B C"), "u2": ("s2", "A A")}
    hypothesis = {"u1": ("s1", "A X C"), "u2": ("s2", "A A")}
    score = score_trn(reference, hypothesis)
    values = summary(score)
    assert values["wer"]["rate"] == 20.0 and values["sentence_error_rate"] == 50.0
    assert values["confusions"] == [{"reference": "B", "hypothesis": "X", "count": 1}]
    assert values["speakers"]["s1"]["errors"] == 1 and values["speakers"]["s2"]["errors"] == 0
    text = text_report(score, values)
    assert headline(values) in text and "  ref: A B C\n  hyp: A X C\n         ^" in text


def test_counts_without_the_alignment_are_the_alignments() -> None:
    for ref, hyp in [*noisy_pairs(500, 3), ("", "A"), ("A", ""), ("", "")]:
        r, h = ref.split(), hyp.split()
        assert Errors(len(r), *count(r, h)) == count_errors(align(r, h), len(r))


def test_counting_needs_no_square_of_memory() -> None:
    text = list("ABCDE" * 600)
    tracemalloc.start()
    assert count(text, text[1:]) == (0, 1, 0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2e6  # a row of 3,000 is 24 kB, the matrix 72 MB


def test_the_oracle_is_the_nearest_hypothesis() -> None:
    assert oracle("A B", ["C", "A B", "A"]) == "A B"
    assert oracle("A B", ["A C", "C B"]) == "A C" and oracle("A", []) == ""


def test_names_that_trn_cannot_hold_are_written_so_that_it_reads_them(tmp_path: Path) -> None:
    write_trn(tmp_path / "hyp.trn", [("A\u2028B", "Jane (2) Doe-Roe", "rec(1)"), ("", "s", "u-2")])
    assert read_trn(tmp_path / "hyp.trn", case_sensitive=True) == {
        "Jane.2.Doe.Roe-rec.1.": ("Jane.2.Doe.Roe", "A B"),
        "s-u-2": ("s", ""),
    }
    (tmp_path / "latin.trn").write_bytes("É (s-u)\n".encode("latin-1"))
    with pytest.raises(UserError, match="not UTF-8"):
        read_trn(tmp_path / "latin.trn")


@pytest.mark.parametrize(("option", "wrong"), [([], 0), (["--case-sensitive"], 1)])
def test_a_folder_is_scored_as_before(option: list[str], wrong: int, tmp_path: Path) -> None:
    write_trn(tmp_path / "ref.trn", [("One two", "s", "u")])
    write_trn(tmp_path / "hyp.trn", [("one two", "s", "u")])
    files = ["--ref", str(tmp_path / "ref.trn"), "--hyp", str(tmp_path / "hyp.trn")]
    assert CliRunner().invoke(cli, ["score", *files, *option], catch_exceptions=False).exit_code == 0
    assert score_folder(tmp_path).words.total == wrong
