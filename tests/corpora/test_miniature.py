"""Releases in miniature: what is read of each, and what is said when a file of it is missing."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from asrkit.corpora.prepare import Options, check_corpus, prepare_corpus, read_corpus
from asrkit.data.folder import DataFolder
from asrkit.data.splits import read_splits, subset_of
from asrkit.errors import UserError
from asrkit.features.audio_files import read_samples
from tests.corpora.miniature import BUILDERS

NAMES = {"librispeech": "librispeech_100"}
"""What ``asrkit prepare`` calls a corpus, where that is not the recipe's name."""
UNREAD = (".glm", "-word.text", "-dict.text")
"""What preparation does without."""
SIZES = {
    "swb300": {"train": 22, "dev": 2, "eval2000": 8, "hub5_01": 6, "rt03": 4},
    "swb2000": {"train": 32, "dev": 2, "eval2000": 8, "hub5_01": 6, "rt03": 4},
    "malach": {"train": 22, "dev": 2, "test": 4},
    "librispeech": {"train": 12, "dev": 4, "test": 4},
    "tedlium2": {"train": 12, "dev": 6, "test": 6},
    "csj": {"train": 9, "dev": 3, "eval1": 3, "eval2": 3, "eval3": 6},
}


@pytest.fixture(scope="module")
def releases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all of them."""
    folder = tmp_path_factory.mktemp("releases")
    for name, build in BUILDERS.items():
        build(folder / name)
    return folder


def problems_of(name: str, corpus_dir: Path, data_dir: Path) -> list[str]:
    """All that is wrong with a corpus."""
    try:
        corpus = read_corpus(NAMES.get(name, name), corpus_dir, DataFolder(data_dir), Options())
        checked, found = check_corpus(corpus, Options(), 1)
    except UserError as error:
        return [str(error)]
    return [f"{p.id}: {p.reason}" for p in found.problems] + [note for note in checked.notes if "there are no" in note]


@pytest.mark.parametrize("name", SIZES)
def test_all_of_a_release_is_read(name: str, releases: Path, tmp_path: Path) -> None:
    folder = DataFolder(tmp_path)
    corpus = read_corpus(NAMES.get(name, name), releases / name, folder, Options())
    sizes, notes = prepare_corpus(corpus, releases / name, folder, skip_bad=False, num_jobs=1)
    assert sizes == SIZES[name] and read_splits(tmp_path) == tuple(SIZES[name])
    assert not any("there are no" in note or "have no transcript" in note for note in notes)


@pytest.mark.parametrize("name", SIZES)
def test_a_missing_file_is_named(name: str, releases: Path, tmp_path: Path) -> None:
    assert problems_of(name, releases / name, tmp_path) == []
    files = [p for p in sorted((releases / name).rglob("*")) if p.is_file() and not p.name.endswith(UNREAD)]
    for path in files:
        hidden = path.with_name(f"{path.name}.hidden")
        path.rename(hidden)
        said = problems_of(name, releases / name, tmp_path)
        hidden.rename(path)
        assert any(path.name.split(".")[0] in line for line in said), (path, said)


def test_subsets_and_sides(releases: Path, tmp_path: Path) -> None:
    folder = DataFolder(tmp_path)
    corpus = read_corpus("swb300", releases / "swb300", folder, Options())
    prepare_corpus(corpus, releases / "swb300", folder, skip_bad=False, num_jobs=1)
    assert Counter(map(subset_of, folder.read_cuts("hub5_01"))) == {"swbd": 2, "s2p3": 2, "s2p4": 2}
    assert Counter(map(subset_of, folder.read_cuts("rt03"))) == {"swbd": 2, "fisher": 2}
    cuts = list(folder.read_cuts("train"))
    assert {cut.channel for cut in cuts} == {0, 1}
    assert all(cut.supervisions[0].speaker == f"{cut.recording_id}-{'AB'[cut.channel]}" for cut in cuts)
    for cut in cuts:  # each side speaks while the other is silent
        samples, rate_hz = read_samples(Path(cut.recording.sources[0].source), cut.start, cut.duration)
        heard = np.abs(samples).max(axis=0)
        assert rate_hz == 8000 and heard[cut.channel] > 0.05 > heard[1 - cut.channel]


def test_test_sets_that_are_not_there_are_left_out(releases: Path, tmp_path: Path) -> None:
    corpus_dir = tmp_path / "corpus"
    corpus_dir.mkdir()
    for name in ("LDC97S62", "swb_ms98_transcriptions", "LDC2002S09"):
        (corpus_dir / name).symlink_to(releases / "swb300" / name)
    folder = DataFolder(tmp_path / "data")
    corpus = read_corpus("swb300", corpus_dir, folder, Options())
    sizes, notes = prepare_corpus(corpus, corpus_dir, folder, skip_bad=False, num_jobs=1)
    assert list(sizes) == ["train", "dev"]
    assert "eval2000 needs LDC2002T43 too" in notes and "there are no utterances of rt03" in notes
    (corpus_dir / "LDC97S62").unlink()
    with pytest.raises(UserError, match="has no folder LDC97S62; unpack or link the release there"):
        read_corpus("swb300", corpus_dir, folder, Options())


def test_words_that_come_too_often_are_left_out(
    releases: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus_dir = tmp_path / "corpus"
    corpus_dir.mkdir()
    (corpus_dir / "LDC97S62").symlink_to(releases / "swb300" / "LDC97S62")
    for path in sorted((releases / "swb300" / "swb_ms98_transcriptions").rglob("*-trans.text")):
        target = corpus_dir / "swb_ms98_transcriptions" / path.name
        target.parent.mkdir(exist_ok=True)
        lines = [" ".join([*line.split()[:3], "uh-huh"]) for line in path.read_text().splitlines()[1:]]
        target.write_text("\n".join(lines) + "\n")
    monkeypatch.setattr("asrkit.corpora.switchboard.MOST_REPEATED", 5)
    corpus = read_corpus("swb300", corpus_dir, DataFolder(tmp_path), Options())
    assert Counter(u.split for u in corpus.utterances) == {"train": 5, "dev": 2}
    assert "17 utterances of Switchboard whose words came 5 times are left out" in corpus.notes


def test_the_sides_of_a_dialogue_keep_their_words(releases: Path, tmp_path: Path) -> None:
    corpus = read_corpus("csj", releases / "csj", DataFolder(tmp_path), Options())
    said = {side: [u.text for u in corpus.utterances if u.speaker == f"D01F0002-{side}"] for side in "LR"}
    assert said == {"L": ["そうです"], "R": ["はい", "ええ"]}


def test_a_list_without_a_partner_is_a_problem(releases: Path, tmp_path: Path) -> None:
    text = releases / "malach" / "LDC2019S11" / "data" / "dev" / "text"
    before = text.read_text()
    text.write_text("".join([*before.splitlines(keepends=True)[:-1], "nobody-000 WORDS\n"]))
    said = problems_of("malach", releases / "malach", tmp_path)
    text.write_text(before)
    assert [line.split(":")[0] for line in said] == ["00021-001", "nobody-000"]
    assert said[0].endswith("dev/text has no line of it") and said[1].endswith("dev/segments has no line of it")
