"""Speech without transcripts is a corpus like any other."""

from __future__ import annotations

from pathlib import Path

import pytest

from asrkit.corpora.prepare import Options, read_corpus
from asrkit.corpora.utterances import Utterance
from asrkit.data.folder import DataFolder
from asrkit.data.index import open_index
from tests.conftest import AN4, run_cli


def test_its_audio_is_checked_and_features_and_an_index_are_made(folder_corpus: Path, tmp_path: Path) -> None:
    data = tmp_path / "unlabelled"
    prepare: list[str | Path] = ["prepare", "folder", "--corpus-dir", folder_corpus, "--data-dir", data]
    refused = run_cli(*prepare[:2], "--corpus-dir", folder_corpus / "audio", "--data-dir", data)
    assert refused.returncode == 2 and "--unlabelled" in refused.stderr
    broken = sorted((folder_corpus / "audio").iterdir())[0]
    broken.write_bytes(broken.read_bytes()[:100])
    assert run_cli(*prepare, "--unlabelled").returncode == 2
    done = run_cli(*prepare, "--unlabelled", "--skip-bad")
    assert "prepared folder: train 15" in done.stderr, done.stderr
    cuts = list(DataFolder(data).read_cuts("train"))
    assert all(cut.supervisions[0].text is None for cut in cuts)
    assert len({cut.supervisions[0].speaker for cut in cuts}) == 4
    assert not DataFolder(data).cuts("dev").exists()
    made = run_cli("features", "--data-dir", data, "features.num_mel_bins=16")
    assert made.returncode == 0, made.stderr
    index = open_index(DataFolder(data), "train")
    assert len(index) == 15 and not index.num_tokens.any()
    again = run_cli("features", "--data-dir", data, "features.num_mel_bins=16")
    assert "done before" in again.stderr
    labelled = run_cli(*prepare, "--skip-bad")
    assert labelled.returncode == 2 and "--unlabelled" in labelled.stderr  # what is there is of another kind


def test_of_a_corpus_with_splits_the_training_set_is_unlabelled(
    an4_utterances: list[Utterance], tmp_path: Path
) -> None:
    found = read_corpus("an4", AN4, DataFolder(tmp_path), Options(unlabelled=True))
    train = [u.id for u in an4_utterances if u.split == "train"]
    assert [u.id for u in found.utterances] == train and all(u.text is None for u in found.utterances)


@pytest.mark.parametrize("layout", ["folders", "folders without lists", "list"])
def test_of_a_folder_with_splits_dev_and_test_stay_unheard(layout: str, folder_corpus: Path, tmp_path: Path) -> None:
    audio = sorted((folder_corpus / "audio").iterdir())
    splits = {path.stem: ("train", "dev", "test", "train")[n % 4] for n, path in enumerate(audio)}
    if layout == "list":
        (folder_corpus / "split").write_text("".join(f"{id} {split}\n" for id, split in splits.items()))
    else:
        texts = dict(line.split(" ", 1) for line in (folder_corpus / "text").read_text().splitlines())
        for path in audio:
            folder = folder_corpus / splits[path.stem]
            folder.mkdir(exist_ok=True)
            path.rename(folder / path.name)
            if layout == "folders":
                with open(folder / "text", "a", encoding="utf-8") as file:
                    file.write(f"{path.stem} {texts[path.stem]}\n")
        for name in ("text", "utt2spk"):
            (folder_corpus / name).unlink()
    found = read_corpus("folder", folder_corpus, DataFolder(tmp_path / "data"), Options(unlabelled=True))
    assert sorted(u.id for u in found.utterances) == sorted(id for id, split in splits.items() if split == "train")
    assert not found.problems


def test_a_folder_keeps_its_lists_and_its_other_audio(folder_corpus: Path, tmp_path: Path) -> None:
    """``train`` and ``podcasts`` without lists, ``dev`` with one, a file at the root, and speakers for all."""
    audio = sorted((folder_corpus / "audio").iterdir())
    places = {path.stem: ("train", "dev", "podcasts", "")[n % 4] for n, path in enumerate(audio)}
    for path in audio:
        folder = folder_corpus / places[path.stem]
        folder.mkdir(exist_ok=True)
        path.rename(folder / path.name)
    (folder_corpus / "text").rename(folder_corpus / "dev" / "text")
    found = read_corpus("folder", folder_corpus, DataFolder(tmp_path / "data"), Options(unlabelled=True))
    assert sorted(u.id for u in found.utterances) == sorted(id for id, place in places.items() if place != "dev")
    assert (
        len({u.speaker for u in found.utterances}) == 4 and "4 utterances of dev and test are left out" in found.notes
    )


def test_unlabelled_corpora_are_combined_with_their_kind(folder_corpus: Path, tmp_path: Path) -> None:
    audio = sorted((folder_corpus / "audio").iterdir())
    for n, path in enumerate(audio):
        part = tmp_path / f"part{n % 2}"
        part.mkdir(exist_ok=True)
        path.rename(part / path.name)
    for n in (0, 1):
        found: list[str | Path] = ["--corpus-dir", tmp_path / f"part{n}", "--data-dir", tmp_path / f"data{n}"]
        assert run_cli("prepare", "folder", "--unlabelled", *found).returncode == 0
    both = run_cli("combine", tmp_path / "data0", tmp_path / "data1", "--data-dir", tmp_path / "both")
    assert "train 16" in both.stderr, both.stderr
    assert run_cli("features", "--data-dir", tmp_path / "both", "features.num_mel_bins=16").returncode == 0
    (tmp_path / "data1" / "inputs.json").write_text('{"--unlabelled": false}')
    (tmp_path / "data1" / "splits.json").unlink()
    mixed = run_cli("combine", tmp_path / "data0", tmp_path / "data1", "--data-dir", tmp_path / "mixed")
    assert mixed.returncode == 2 and "combine corpora of a kind" in mixed.stderr
