"""NIST's rates of a release in miniature."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from lhotse.cut import Cut

from asrkit.corpora.prepare import Options, prepare_corpus, read_corpus
from asrkit.data.folder import DataFolder
from asrkit.errors import UserError
from asrkit.scoring import hub5
from asrkit.scoring.hub5 import by_subset, ctm_lines, hubscr_folder, official_errors
from asrkit.scoring.wer import Errors
from asrkit.text.normalize import shortest
from tests.corpora.miniature import swb300

NEEDS_HUBSCR = pytest.mark.skipif(hubscr_folder() is None, reason="hubscr.pl is not installed (tools/install_sctk.sh)")


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, DataFolder]:
    """Switchboard in miniature, as released and prepared."""
    corpus_dir = tmp_path_factory.mktemp("swb300")
    swb300(corpus_dir / "corpus")
    folder = DataFolder(corpus_dir / "data")
    corpus = read_corpus("swb300", corpus_dir / "corpus", folder, Options())
    prepare_corpus(corpus, corpus_dir / "corpus", folder, skip_bad=False, num_jobs=1)
    return corpus_dir / "corpus", folder


def decoded(folder: DataFolder, split: str, say: Callable[[list[str]], list[str]]) -> list[Cut]:
    """The cuts of a split with hypotheses made from their references."""
    cuts = []
    for cut in folder.read_cuts(split):
        said = say(shortest(cut.supervisions[0].text).split())
        step = cut.duration / max(1, len(said))
        words = [
            {"word": word, "time": n * step, "end": (n + 0.9) * step, "confidence": 0.9} for n, word in enumerate(said)
        ]
        cuts.append(cut.with_custom("hypotheses", [{"text": " ".join(said), "words": words}]))
    return cuts


@pytest.fixture(params=["ours", pytest.param("hubscr.pl", marks=NEEDS_HUBSCR)])
def scorer(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Whether NIST's programs count too."""
    if request.param == "ours":
        monkeypatch.setattr(hub5, "hubscr_folder", lambda: None)
    return str(request.param)


def test_hesitations_are_all_the_same_and_may_be_missing(
    release: tuple[Path, DataFolder], scorer: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus_dir, folder = release
    (glm,) = (corpus_dir / "LDC2002T43").rglob("*.glm")
    stms = sorted((corpus_dir / "LDC2002T43").rglob("*.stm"))
    references = sum(len(shortest(cut.supervisions[0].text).split()) for cut in folder.read_cuts("eval2000"))
    for say in (lambda words: words, lambda words: ["uh", *words], lambda words: ["um", *words]):
        cuts = decoded(folder, "eval2000", say)
        found = by_subset(official_errors(stms, glm, cuts, tmp_path), cuts)
        assert found[""].total == 0 and found.keys() == {"", "callhome", "swbd"}
        assert found[""].reference == references + 8  # with a hesitation in each
    if scorer == "hubscr.pl":
        assert "en_4156_a" in (tmp_path / "counts.txt").read_text()
    assert "hubscr.pl counts" not in capsys.readouterr().err


@pytest.mark.usefixtures("scorer")
def test_errors_are_counted_by_subset(release: tuple[Path, DataFolder], tmp_path: Path) -> None:
    corpus_dir, folder = release
    (glm,) = (corpus_dir / "LDC2007S10").rglob("*.glm")
    stms = sorted((corpus_dir / "LDC2007S10").rglob("*.stm"))
    cuts = decoded(folder, "rt03", lambda words: words)
    for cut in cuts:
        if cut.recording_id.startswith("fsh_"):
            cut.hypotheses[0]["words"][0]["word"] = "wrong"
            cut.hypotheses[0]["words"].pop()
    found = by_subset(official_errors(stms, glm, cuts, tmp_path), cuts)
    assert (found["fisher"].substitutions, found["fisher"].deletions, found["fisher"].insertions) == (2, 2, 0)
    assert found["swbd"].total == 0 and found[""] == found["fisher"] + found["swbd"]


def test_words_are_written_in_the_time_of_their_recording(release: tuple[Path, DataFolder]) -> None:
    cuts = decoded(release[1], "eval2000", lambda words: words)
    lines = [line.split() for line in ctm_lines(cuts)]
    assert {(line[0], line[1]) for line in lines} == {(r, c) for r in ("sw_4390", "en_4156") for c in "AB"}
    first = min(cut.start for cut in cuts if cut.recording_id == "sw_4390" and cut.channel == 1)
    assert float(next(line for line in lines if line[:2] == ["sw_4390", "B"])[2]) == pytest.approx(first, abs=0.01)
    assert lines == sorted(lines, key=lambda line: (line[0], line[1], float(line[2])))
    with pytest.raises(UserError, match="has no hypotheses; decode again"):
        ctm_lines(release[1].read_cuts("eval2000"))


def test_sides_add_up() -> None:
    assert by_subset({"en_1_a": Errors(5, 1), "en_1_b": Errors(3, 0, 1)}, [])[""] == Errors(8, 1, 1)
