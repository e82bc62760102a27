from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from asrkit.cli.main import cli
from asrkit.errors import UserError
from asrkit.scoring.nist import write_trn
from asrkit.scoring.significance import paired_bootstrap
from asrkit.scoring.wer import Errors


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
