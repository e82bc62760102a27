from __future__ import annotations

import gzip
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile
from lhotse import CutSet

from asrkit.corpora.an4 import read_an4
from asrkit.corpora.folder import read_folder
from asrkit.corpora.librispeech import read_librispeech_subset, read_mini_librispeech
from asrkit.corpora.prepare import READERS, combine_corpora
from asrkit.corpora.speechocean762 import read_speechocean762
from asrkit.corpora.splits import draw_splits
from asrkit.corpora.utterances import Utterance, check
from asrkit.data.folder import DataFolder
from asrkit.errors import UserError
from asrkit.features.containers import truncation
from asrkit.features.listen import DIGESTS
from asrkit.features.pipeline import load_audio
from tests.conftest import AN4, run_cli, to_cut_sets


def test_an4_has_the_published_sizes_and_the_agreed_splits(an4_utterances: list[Utterance]) -> None:
    sizes = Counter(u.split for u in an4_utterances)
    assert sizes["train"] + sizes["dev"] == 948 and sizes["test"] == 130
    speakers = {split: {u.speaker for u in an4_utterances if u.split == split} for split in sizes}
    assert len(speakers["dev"]) == 8 and len(speakers["test"]) == 10
    assert len(speakers["train"] | speakers["dev"]) == 74
    assert max(speakers["train"]) < min(speakers["dev"])
    assert not speakers["test"] & (speakers["train"] | speakers["dev"])
    words = {word for u in an4_utterances for word in (u.text or "").split()}
    assert len(words) == 101 and not any("<" in word or "(" in word for word in words)


@pytest.mark.parametrize("form", ["sph", "wav", "little.raw", "big.raw"])
def test_the_original_releases_read_the_same(form: str, tmp_path: Path, an4_utterances: list[Utterance]) -> None:
    shutil.copytree(AN4 / "etc", tmp_path / "etc")
    some = [u for u in an4_utterances if u.split == "test"][:3]
    signals = {}
    for u in some:
        assert u.audio is not None
        samples, rate = soundfile.read(u.audio, dtype="int16")
        signals[u.id] = samples
        target = (tmp_path / "wav" / u.audio.relative_to(AN4 / "wav")).with_suffix("." + form.split(".")[-1])
        target.parent.mkdir(parents=True, exist_ok=True)
        if form.endswith("raw"):
            target.write_bytes(samples.astype(">i2" if form.startswith("big") else "<i2").tobytes())
        else:
            soundfile.write(target, samples, rate, format={"sph": "NIST", "wav": "WAV"}[form], subtype="PCM_16")
    read = {u.id: u for u in read_an4(tmp_path, tmp_path / "data").utterances}
    same = [read[u.id] for u in some]
    checked = check(same)
    assert not checked.problems
    cuts = {cut.id: cut for cut in to_cut_sets(same, checked.heard)["test"]}
    for u in same:
        assert np.array_equal(np.round(load_audio(cuts[u.id], 16000).numpy() * 32768).astype(np.int16), signals[u.id])


def test_check_reports_every_problem_at_once(folder_corpus: Path, tmp_path: Path) -> None:
    audio = sorted((folder_corpus / "audio").glob("*.ogg"))
    names = [path.stem for path in audio]
    audio[0].write_bytes(audio[0].read_bytes()[:-3000])
    soundfile.write(audio[1].with_suffix(".wav"), np.zeros(16000), 16000)
    audio[1].unlink()
    shutil.copy(audio[2], audio[3])
    audio[4].unlink()
    lines = dict(line.split(" ", 1) for line in (folder_corpus / "text").read_text().splitlines())
    lines[names[5]] = "A " * 2000
    del lines[names[6]]
    lines[names[7]] = " "
    audio[8].write_bytes(b"no audio at all")
    (folder_corpus / "text").write_text("".join(f"{id} {text}\n" for id, text in lines.items()))
    corpus = read_folder(folder_corpus, tmp_path)
    checked = check(corpus.utterances, num_jobs=2)
    reasons = {p.id: p.reason for p in corpus.problems + checked.problems}
    expected = {
        names[0]: "truncated",
        names[1]: "silent",
        names[3]: f"its audio is that of {names[2]}",
        names[4]: "transcript but no audio",
        names[5]: "too many labels for the frames",
        names[6]: "audio but no transcript",
        names[7]: "the transcript is empty",
        names[8]: "cannot be decoded",
    }
    assert reasons.keys() == expected.keys()
    for id, words in expected.items():
        assert words in reasons[id], reasons[id]
    assert len(checked.heard) == 16 - 8

    refused = run_cli("prepare", "folder", "--corpus-dir", folder_corpus, "--data-dir", tmp_path / "data")
    assert refused.returncode == 2 and "Traceback" not in refused.stderr
    assert all(id in refused.stderr for id in expected) and not (tmp_path / "data" / "train.jsonl.gz").exists()
    skipped = run_cli("prepare", "folder", "--corpus-dir", folder_corpus, "--data-dir", tmp_path / "data", "--skip-bad")
    assert skipped.returncode == 0, skipped.stderr
    assert len((tmp_path / "data" / "bad.jsonl").read_text().splitlines()) == 8


def test_check_hears_other_rates_and_samples_that_are_no_numbers(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, (5, 16000))
    for n, (name, rate) in enumerate([("a.wav", 16000), ("b.wav", 16000), ("c.wav", 8000), ("d.sph", 16000)]):
        soundfile.write(tmp_path / name, noise[n], rate, format={"wav": "WAV", "sph": "NIST"}[name[2:]])
    broken = (tmp_path / "d.sph").read_bytes()
    (tmp_path / "d.sph").write_bytes(broken.replace(b"   1024\n", b"   abcd\n", 1))
    noise[4, 7] = np.nan
    soundfile.write(tmp_path / "e.wav", noise[4], 16000, subtype="FLOAT")
    some = [Utterance(p.stem, "train", "s", "ONE", p) for p in sorted(tmp_path.iterdir())]
    some += [Utterance(f"f{n}", "train", "s", "ONE", None) for n in range(4)]
    checked = check(some)
    reasons = {p.id: p.reason for p in checked.problems}
    assert "cannot be decoded" in reasons["d"] and "not finite" in reasons["e"]
    assert checked.heard.keys() == {"a", "b", "c"}
    assert any("2 of 16000 Hz, 1 of 8000 Hz; all are resampled" in note for note in checked.notes)


@pytest.mark.parametrize(
    ("form", "subtype"), [("WAV", None), ("NIST", None), ("NIST", "ULAW"), ("NIST", "ALAW"), ("OGG", None)]
)
def test_truncation_of_each_container(form: str, subtype: str | None, tmp_path: Path) -> None:
    path = tmp_path / f"x.{form.lower()}"
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 48000)
    soundfile.write(path, noise, 16000, format=form, subtype=subtype)
    assert truncation(path) == ""
    path.write_bytes(path.read_bytes()[:-500])
    assert "missing" in truncation(path)


def test_folders_that_cannot_be_read_say_why(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="write one line an utterance"):
        read_folder(tmp_path, tmp_path)
    (tmp_path / "text").write_text("a ONE\nb TWO\n")
    with pytest.raises(UserError, match="no audio under"):
        read_folder(tmp_path, tmp_path)
    for name in "ab":
        soundfile.write(tmp_path / f"{name}.wav", np.ones(1600), 16000)
    two = read_folder(tmp_path, tmp_path / "data").utterances
    with pytest.raises(UserError, match="2 speakers cannot be split"):
        draw_splits(two, {"a": 1.0, "b": 1.0})
    (tmp_path / "split").write_text("a train\nb validation\n")
    with pytest.raises(UserError, match="'b' is in 'validation'"):
        read_folder(tmp_path, tmp_path)
    soundfile.write(tmp_path / "a.flac", np.ones(1600), 16000)
    with pytest.raises(UserError, match="have the same name"):
        read_folder(tmp_path, tmp_path)
    (tmp_path / "a.flac").unlink()
    (tmp_path / "text").write_bytes("a ÉTÉ\n".encode("latin-1"))
    with pytest.raises(UserError, match="not UTF-8"):
        read_folder(tmp_path, tmp_path)
    with pytest.raises(UserError, match=r"an4_train\.fileids is missing"):
        read_an4(tmp_path, tmp_path)


def test_speechocean762_splits_by_speaker_and_by_sentence(tmp_path: Path) -> None:
    """A release of 60 + 60 speakers, two utterances each; one sentence of train is said in test too."""
    for part, first in (("train", 0), ("test", 100)):
        rows: dict[str, list[str]] = {"text": [], "utt2spk": [], "wav.scp": []}
        for speaker in range(first, first + 60):
            for n in range(2):
                id = f"{speaker:04d}{n}"
                rows["text"].append(f"{id}\tSENTENCE {speaker if (speaker, n) != (5, 0) else 100} {n}")
                rows["utt2spk"].append(f"{id}\t{speaker:04d}")
                rows["wav.scp"].append(f"{id}\tWAVE/SPEAKER{speaker:04d}/{id}.WAV")
        (tmp_path / part).mkdir()
        for name, lines in rows.items():
            (tmp_path / part / name).write_text("\n".join(lines) + "\n")
    copy = tmp_path / "WAVE" / "SPEAKER0000" / "00000.ogg"
    copy.parent.mkdir(parents=True)
    copy.touch()
    utterances = read_speechocean762(tmp_path, tmp_path).utterances
    speakers = {split: {u.speaker for u in utterances if u.split == split} for split in ("train", "dev", "test")}
    assert speakers["test"] == {f"{s:04d}" for s in range(100, 125)}
    assert speakers["dev"] == {f"{s:04d}" for s in range(125, 150)}
    assert speakers["train"] == {f"{s:04d}" for s in [*range(60), *range(150, 160)]}
    by_id = {u.id: u for u in utterances}
    assert len(utterances) == 239 and "00050" not in by_id  # SENTENCE 100 0 is in test
    assert by_id["00000"].audio == copy and by_id["00001"].text == "SENTENCE 0 1"
    with pytest.raises(UserError, match="must be speechocean762's folder"):
        read_speechocean762(tmp_path / "nowhere", tmp_path)


def test_librispeech_subset_splits_by_speaker(tmp_path: Path) -> None:
    for speaker in ("84", "652", "1272"):
        chapter = tmp_path / "LibriSpeech" / "dev-clean" / speaker / "7"
        chapter.mkdir(parents=True)
        (chapter / f"{speaker}-7.trans.txt").write_text(f"{speaker}-7-0000 A MAN\n{speaker}-7-0001 SAID SO\n")
        (chapter / f"{speaker}-7-0000.flac").touch()
        (chapter / f"{speaker}-7-0001.mp3").touch()
    by_id = {u.id: u for u in read_librispeech_subset(tmp_path, tmp_path).utterances}
    assert {id: u.split for id, u in by_id.items() if id.endswith("0")} == {
        "84-7-0000": "test",
        "652-7-0000": "dev",
        "1272-7-0000": "train",
    }
    assert by_id["84-7-0001"].audio is not None and by_id["84-7-0001"].audio.suffix == ".mp3"
    assert by_id["84-7-0001"].text == "SAID SO" and by_id["84-7-0001"].speaker == "84"
    with pytest.raises(UserError, match="must be LibriSpeech's folder"):
        read_librispeech_subset(tmp_path / "nowhere", tmp_path)


def test_a_fifth_of_the_speakers_and_the_rest_are_the_whole(tmp_path: Path) -> None:
    for part, speakers in (("train-clean-5", range(11)), ("dev-clean", [90]), ("test-clean", [91])):
        for speaker in speakers:
            chapter = tmp_path / part / f"{speaker}" / "1"
            chapter.mkdir(parents=True)
            (chapter / f"{speaker}-1.trans.txt").write_text(f"{speaker}-1-0 A MAN\n")
            (chapter / f"{speaker}-1-0.flac").touch()
    found = {
        name: [u.speaker for u in READERS[name](tmp_path, tmp_path).utterances if u.split == "train"]
        for name in ("mini_librispeech", "mini_librispeech_fifth", "mini_librispeech_rest")
    }
    whole, fifth, rest = found.values()
    assert len(fifth) == 3 and sorted(fifth + rest) == sorted(whole) and not set(fifth) & set(rest)
    others = [u.split for u in READERS["mini_librispeech_fifth"](tmp_path, tmp_path).utterances if u.split != "train"]
    assert others == ["dev", "test"]
    with pytest.raises(UserError, match="holds no train-clean-360"):
        READERS["librispeech_860"](tmp_path, tmp_path)


def test_mini_librispeech_has_the_official_test_set(tmp_path: Path) -> None:
    for part in ("train-clean-5", "dev-clean", "test-clean"):
        chapter = tmp_path / "LibriSpeech" / part / "84" / "7"
        chapter.mkdir(parents=True)
        (chapter / "84-7.trans.txt").write_text(f"84-7-{part[:2]} A MAN\n\n")
        (chapter / f"84-7-{part[:2]}.flac").touch()
    found = {u.id: u.split for u in read_mini_librispeech(tmp_path, tmp_path).utterances}
    assert found == {"84-7-tr": "train", "84-7-de": "dev", "84-7-te": "test"}
    (tmp_path / "LibriSpeech" / "dev-clean").rename(tmp_path / "LibriSpeech" / "dev-clean-2")  # OpenSLR 31's own
    assert {u.id: u.split for u in read_mini_librispeech(tmp_path / "LibriSpeech", tmp_path).utterances} == found
    shutil.rmtree(tmp_path / "LibriSpeech" / "test-clean")
    with pytest.raises(UserError, match="holds no test-clean; unpack it there"):
        read_mini_librispeech(tmp_path, tmp_path)


def test_corpora_are_pooled_split_by_split(tmp_path: Path, an4_utterances: list[Utterance]) -> None:
    by_split = {split: [u for u in an4_utterances if u.split == split][:4] for split in ("train", "dev", "test")}
    for name, part in (("a", slice(0, 2)), ("b", slice(2, 4))):
        some = [u for of_split in by_split.values() for u in of_split[part]]
        for split, cuts in to_cut_sets(some, check(some).heard).items():
            DataFolder(tmp_path / name).cuts(split).parent.mkdir(exist_ok=True)
            cuts.to_file(DataFolder(tmp_path / name).cuts(split))
    sources = [DataFolder(tmp_path / "a"), DataFolder(tmp_path / "b")]
    sizes, notes = combine_corpora(sources, DataFolder(tmp_path / "both"))
    assert sizes == {"train": 4, "dev": 4, "test": 4} and not any("earlier version" in note for note in notes)
    path = sources[1].cuts("dev")  # as by an earlier version, which wrote other digests
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()).replace(DIGESTS.encode(), b"")))
    assert any("by an earlier version" in note for note in combine_corpora(sources, DataFolder(tmp_path / "old"))[1])
    pooled = {cut.id for cut in CutSet.from_file(DataFolder(tmp_path / "both").cuts("dev"))}
    assert pooled == {u.id for u in by_split["dev"]}
    with pytest.raises(UserError, match="two of the corpora have an utterance"):
        combine_corpora([DataFolder(tmp_path / "a"), DataFolder(tmp_path / "a")], DataFolder(tmp_path / "both"))
    with pytest.raises(UserError, match="run asrkit prepare or combine first"):
        combine_corpora([DataFolder(tmp_path / "c")], DataFolder(tmp_path / "both"))
