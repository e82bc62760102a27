from __future__ import annotations

import math
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from asrkit.cli.main import cli
from asrkit.errors import UserError
from asrkit.scoring.alignment import GAP, Pair, align
from asrkit.scoring.hub5 import hubscr_folder
from asrkit.scoring.nist import write_trn
from asrkit.scoring.significance import matched_pairs, paired_bootstrap, segment_differences
from asrkit.scoring.wer import Errors
from asrkit.scoring.word_network import align_networks, network, parse
from tests.scoring.test_scoring import noisy_pairs


def counts(wrong: list[int], words: int = 10) -> list[Errors]:
    return [Errors(words, n) for n in wrong]


def test_a_difference_on_every_utterance_is_certain() -> None:
    better, worse = counts([1, 2, 3, 0] * 30), counts([2, 3, 4, 1] * 30)
    found = paired_bootstrap([worse], [better])
    assert (found.baseline, found.system) == (25.0, 15.0)
    # The systems differ by one error everywhere, so that pairing leaves no doubt.
    assert found.points == pytest.approx(-10.0) and (found.low, found.high) == pytest.approx((-10.0, -10.0))
    assert found.p_value == 0.0


def test_equal_systems_do_not_differ() -> None:
    same = counts([1, 0, 4, 2] * 20)
    found = paired_bootstrap([same], [same])
    assert found.points == found.low == found.high == 0.0 and found.p_value == 1.0


def test_the_interval_is_the_normal_one_of_many_utterances() -> None:
    generator = np.random.default_rng(1)
    a, b = generator.poisson(2.0, 4000), generator.poisson(2.1, 4000)
    found = paired_bootstrap([counts(a.tolist())], [counts(b.tolist())], replications=4000)
    half = 1.96 * (b - a).std() / np.sqrt(4000) * 10  # in percent of ten words
    assert found.low == pytest.approx(found.points - half, abs=0.1 * half)
    assert found.high == pytest.approx(found.points + half, abs=0.1 * half)


def test_seeds_that_disagree_widen_the_interval() -> None:
    steady, other = counts([2] * 50), counts([1] * 50)
    first, second = counts([0] * 50), counts([3] * 50)
    one = paired_bootstrap([steady], [other])
    assert (one.low, one.high) == (-10.0, -10.0)
    three = paired_bootstrap([steady] * 3, [other, first, second])
    assert three.points == pytest.approx(-6.667, abs=1e-3)
    assert three.low == -20.0 and three.high >= 3.0 and three.p_value > 0.05


def test_other_utterances_are_refused() -> None:
    with pytest.raises(UserError, match="not scored on the same utterances"):
        paired_bootstrap([counts([1, 2])], [counts([1, 2, 3])])
    with pytest.raises(UserError, match="references without words"):
        paired_bootstrap([counts([1], 0)], [counts([1], 0)])


def test_references_may_have_alternatives_of_other_lengths() -> None:
    found = paired_bootstrap([counts([1, 0], 10)], [[Errors(11, 0), Errors(9, 1)]])
    assert (found.baseline, found.system, found.points) == (5.0, 5.0, 0.0)


def test_the_command_reads_decodings(tmp_path: Path) -> None:
    for name, said in (("a", ["X B", "C D"]), ("b", ["A B", "C D"]), ("c", ["A B", "C X"])):
        rows = zip(said, ["A B", "C D"], ["u1", "u2"], strict=True)
        for file, place in (("hyp.trn", 0), ("ref.trn", 1)):
            write_trn(tmp_path / name / file, [(row[place], "s", row[2]) for row in rows])
            rows = zip(said, ["A B", "C D"], ["u1", "u2"], strict=True)
    words = ["compare", "--baseline", str(tmp_path / "a"), "--system", str(tmp_path / "b")]
    done = CliRunner().invoke(cli, words, catch_exceptions=False)
    assert done.output.startswith("WER 25.00 % (1 trained) and 0.00 % (1 trained): -25.00 [")
    done = CliRunner().invoke(cli, [*words, "--system", str(tmp_path / "c")], catch_exceptions=False)
    assert "and 12.50 % (2 trained): -12.50 [" in done.output


def pairs(*marks: str) -> list[Pair]:
    """An alignment: C for a correct word, S for a substitution, D for a deletion, I for an insertion."""
    made = {"C": ("a", "a"), "S": ("a", "b"), "D": ("a", GAP), "I": (GAP, "a")}
    return [made[mark] for mark in "".join(marks)]


def test_segments_end_with_two_words_that_both_recognize() -> None:
    def differences(first: str, second: str) -> list[int]:
        return segment_differences([pairs(first)], [pairs(second)])

    assert differences("CCCC", "CCCC") == []
    assert differences("SCCCD", "CCCCC") == [1, 1]
    assert differences("SCDCC", "CCCCC") == [2]  # one word between them is not enough
    assert differences("SCICC", "CCCC") == [2]
    assert differences("CCCCI", "SCCC") == [-1, 1]
    assert differences("CSC", "CCS") == [0]
    assert differences("CC", "CSC") == [-1]  # nearest to different alternatives


def test_matched_pairs() -> None:
    first = [pairs("CCS" if n % 3 else "SSS") for n in range(60)]
    assert matched_pairs(first, first) == 1.0
    assert matched_pairs([pairs("CCS")], [pairs("CCC")]) == 1.0  # one segment shows nothing
    assert matched_pairs(first, [pairs("CCC")] * 60) < 0.001
    assert matched_pairs(first, first[1:] + first[:1]) > 0.5


@pytest.mark.skipif(hubscr_folder() is None, reason="sc_stats is not installed (tools/install_sctk.sh)")
def test_segments_and_their_statistic_are_those_of_sc_stats(tmp_path: Path) -> None:
    folder = hubscr_folder()
    texts = noisy_pairs(300, 7)
    references = [reference.split() for reference, _ in texts]
    systems = [[hypothesis.split() for _, hypothesis in texts], [r[:1] + r[2:] for r in references]]
    sgml, alignments = "", []
    for name, hypotheses in zip("ab", systems, strict=True):
        for kind, words in (("ref", references), (name, hypotheses)):
            lines = (f"{' '.join(of_one)} (s-{n:04})\n" for n, of_one in enumerate(words))
            (tmp_path / f"{kind}.trn").write_text("".join(lines))
        command = [f"{folder}/sclite", "-r", "ref.trn", "trn", "-h", f"{name}.trn", "trn", name, "-i", "rm"]
        subprocess.run([*command, "-o", "sgml", "-n", name], cwd=tmp_path, check=True, capture_output=True)
        sgml += (tmp_path / f"{name}.sgml").read_text()
        networks = [(network(parse(r)), network(list(h))) for (r, _), h in zip(texts, hypotheses, strict=True)]
        alignments.append([align_networks(*both) for both in networks])
    command = [f"{folder}/sc_stats", "-p", "-t", "mapsswe", "-v", "-n", "-"]
    printed = subprocess.run(command, input=sgml.encode(), capture_output=True, check=True).stdout.decode("latin-1")
    told = re.search(r"# segs: (\d+)\).*mean: +(-?[\d.]+)\).*std dev: +([\d.]+)\).*Z Stat: +(-?[\d.]+)\)", printed)
    assert told
    ours = np.array(segment_differences(*alignments), dtype=np.float64)
    z = ours.mean() / (ours.std(ddof=1) / np.sqrt(len(ours)))
    assert int(told[1]) == len(ours)
    found = [ours.mean(), ours.std(ddof=1), z]
    assert found == pytest.approx([float(told[i]) for i in (2, 3, 4)], abs=6e-4)
    assert matched_pairs(*alignments) == pytest.approx(math.erfc(abs(z) / math.sqrt(2)))
    # Among alignments of equal cost the choice hardly matters.
    others = [[align(r, h) for r, h in zip(references, of_one, strict=True)] for of_one in systems]
    assert len(segment_differences(*others)) == pytest.approx(len(ours), rel=0.02)
