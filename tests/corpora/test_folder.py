"""Folders as people have them: names, lists, layouts and channels."""

from __future__ import annotations

import json
import os
import shutil
import time
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import soundfile

from asrkit.corpora.folder import read_folder
from asrkit.corpora.lists import match, read_pairs
from asrkit.corpora.manifests import read_huggingface, read_lhotse, read_nemo
from asrkit.corpora.prepare import Options, check_corpus, prepare_corpus, read_corpus
from asrkit.corpora.splits import across_splits, draw_splits
from asrkit.corpora.utterances import Utterance, check
from asrkit.data.cut_files import as_dict, load_roots, read_cuts, write_cuts
from asrkit.data.folder import DataFolder
from asrkit.data.upstream import require_same_corpus
from asrkit.errors import UserError
from asrkit.features.pipeline import load_audio
from tests.conftest import run_cli, to_cut_sets

IDS = [f"{speaker}{n}" for speaker in ("ann", "bea", "cat", "dan") for n in range(4)]


def noise(name: str, seconds: float = 1.0, channels: int = 1) -> np.ndarray:
    samples = np.random.default_rng(sum(map(ord, name))).normal(0, 0.1, (round(16000 * seconds), channels))
    return np.round(samples * 32768) / 32768  # as a file of 16 bits holds it


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Sixteen recordings of four speakers."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    for id in IDS:
        soundfile.write(folder / f"{id}.wav", noise(id), 16000)
    (folder / "text").write_text("".join(f"{id} WORD {id.upper()}\n" for id in IDS))
    (folder / "utt2spk").write_text("".join(f"{id} {id[:3]}\n" for id in IDS))
    return folder


def problems_of(folder: Path, channel: str = "") -> dict[str, str]:
    corpus = read_folder(folder, folder.parent / "data", channel)
    return {p.id: p.reason for p in corpus.problems + check(corpus.utterances).problems}


def rewrite(path: Path, change: str) -> None:
    """Changes every id of a list, by a format with ``id``."""
    pairs = read_pairs(path)
    path.write_text("".join(f"{change.format(id=id)} {value}\n" for id, value in pairs.items()))


@pytest.mark.parametrize("form", ["{id}.wav", "wav/{id}", "/data/x/{id}.WAV", "wav\\{id}.wav"])
@pytest.mark.parametrize("list_name", ["text", "utt2spk", "split"])
def test_ids_with_a_suffix_or_a_folder_match_and_it_is_said_once(form: str, list_name: str, corpus: Path) -> None:
    (corpus / "split").write_text("".join(f"{id} {('dev', 'test', 'train')[n % 3]}\n" for n, id in enumerate(IDS)))
    plain = read_folder(corpus, corpus.parent / "data").utterances
    rewrite(corpus / list_name, form)
    found = read_folder(corpus, corpus.parent / "data")
    assert sorted(found.utterances, key=lambda u: u.id) == sorted(plain, key=lambda u: u.id) and not found.problems
    assert [note for note in found.notes if note.startswith(list_name) and "16 ids" in note]


@pytest.mark.parametrize("list_name", ["utt2spk", "split"])
def test_ids_without_a_partner_are_problems_in_both_directions(list_name: str, corpus: Path) -> None:
    lines = [f"{id if n else id.upper()} {'train' if list_name == 'split' else id[:3]}\n" for n, id in enumerate(IDS)]
    (corpus / list_name).write_text("".join(lines))
    found = problems_of(corpus)
    assert found == {
        "ANN0": f"it is in {list_name}, but there is no such utterance",
        "ann0": f"it is not in {list_name}",
    }


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r\n\r\n"])
@pytest.mark.parametrize("gap", [" ", "\t", " \t "])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_lists_of_any_system_are_read(end: str, gap: str, mark: str, corpus: Path) -> None:
    text = mark + end.join(f"{id}{gap}WORD {id} " for id in IDS)
    (corpus / "text").write_bytes(text.encode())
    assert [u.text for u in read_folder(corpus, corpus).utterances] == [f"WORD {id}" for id in IDS]


def test_unicode_forms_are_one_in_names_ids_and_transcripts(corpus: Path) -> None:
    (corpus / "ann0.wav").rename(corpus / (unicodedata.normalize("NFD", "café-01") + ".wav"))
    lists = {"text": "CAFE\u0301 \u200fשלום\u200f\u00a0X", "utt2spk": "ann"}
    for name, value in lists.items():
        lines = (corpus / name).read_text().splitlines()
        (corpus / name).write_text("\n".join([f"{unicodedata.normalize('NFC', 'café-01')} {value}", *lines[1:]]))
    assert problems_of(corpus) == {}
    found = {u.id: u for u in read_folder(corpus, corpus).utterances}
    assert found[unicodedata.normalize("NFC", "café-01")].text == "CAFÉ שלום X"


def test_names_with_spaces_can_be_listed(corpus: Path) -> None:
    (corpus / "ann0.wav").rename(corpus / "my file 2.wav")
    for name, line in (("text", "my file 2 HELLO THERE"), ("utt2spk", "my file 2\tann")):
        (corpus / name).write_text("\n".join([line, *(corpus / name).read_text().splitlines()[1:]]))
    assert problems_of(corpus) == {}
    assert {u.id: (u.text, u.speaker) for u in read_folder(corpus, corpus).utterances}["my file 2"] == (
        "HELLO THERE",
        "ann",
    )


def test_what_systems_leave_and_where_links_lead(corpus: Path) -> None:
    (corpus / f"._{IDS[0]}.wav").write_bytes(b"\0\5\x16\7")
    (corpus / "__MACOSX").mkdir()
    shutil.copy(corpus / "ann0.wav", corpus / "__MACOSX" / "ann1.wav")
    (corpus / "old.wav").mkdir()
    elsewhere = corpus.parent / "elsewhere" / "wav"
    elsewhere.mkdir(parents=True)
    for id in IDS:
        (corpus / f"{id}.wav").rename(elsewhere / f"{id}.wav")
    (corpus / "wav").symlink_to(elsewhere)
    (elsewhere / "back").symlink_to(corpus)  # a loop
    assert problems_of(corpus) == {} and len(read_folder(corpus, corpus).utterances) == 16


def test_files_of_one_name_have_their_paths_as_ids(corpus: Path) -> None:
    for folder in ("s1", "s2"):
        (corpus / folder).mkdir()
        soundfile.write(corpus / folder / "001.wav", noise(folder), 16000)
        for name, value in (("text", "A WORD"), ("utt2spk", folder)):
            with open(corpus / name, "a") as file:
                file.write(f"{folder}/001.wav {value}\n")
    assert problems_of(corpus) == {}
    assert {"s1/001", "s2/001"} <= {u.id for u in read_folder(corpus, corpus).utterances}


def test_audio_of_a_kind_that_is_not_read_is_named(corpus: Path) -> None:
    (corpus / "ann0.wav").rename(corpus / "ann0.dss")
    assert "ann0.dss is in a format that cannot be read" in problems_of(corpus)["ann0"]


def test_segments_of_long_recordings(corpus: Path) -> None:
    """A Kaldi data folder: three segments of a recording, one of them too long, one silent; speakers by recording."""
    long = np.concatenate([noise("long", 6)[:, 0], np.zeros(32000)])
    (corpus / "audio").mkdir()
    soundfile.write(corpus / "audio" / "long.flac", long, 16000)
    (corpus / "wav.scp").write_text("rec audio/long.flac\nother audio/none.flac\n")
    (corpus / "segments").write_text(
        "rec-a rec 0.5 1.5\nrec-b rec 2.25 4\nrec-c rec 7 9\nrec-d rec 6.2 7.9\nx-a x 0 1\n"
    )
    (corpus / "text").write_text("rec-a ONE\nrec-b TWO\nrec-c THREE\nrec-d FOUR\n")
    (corpus / "utt2spk").write_text("rec jane\n")
    found = read_folder(corpus, corpus.parent / "data")
    checked = check(found.utterances)
    assert {p.id: p.reason.split(":")[0] for p in found.problems + checked.problems} == {
        "x-a": "its recording x has no audio",
        "rec-c": "it lasts from 7.00 to 9.00 s, its recording 8.00 s",
        "rec-d": "the audio is silent there",
    }
    assert {u.speaker for u in found.utterances} == {"jane"}
    cuts = to_cut_sets(all_in_train(found.utterances), checked.heard)["train"]
    for cut, (begin, end) in zip(cuts, ((8000, 24000), (36000, 64000)), strict=True):
        assert np.allclose(load_audio(cut, 16000).numpy(), long[begin:end], atol=1e-4)


def all_in_train(utterances: list[Utterance]) -> list[Utterance]:
    return [
        Utterance(u.id, "train", u.speaker, u.text, u.audio, u.start_s, u.duration_s, u.channel) for u in utterances
    ]


@pytest.mark.parametrize("line", ["a rec 1", "a rec x 2", "a rec 2 1", "a rec nan 2", "a rec -1 2"])
def test_segments_that_are_none_are_named(line: str, corpus: Path) -> None:
    (corpus / "wav.scp").write_text("rec ann0.wav\n")
    (corpus / "segments").write_text(line + "\n")
    (corpus / "text").write_text("a ONE\n")
    (corpus / "utt2spk").unlink()
    try:
        assert "is empty" in problems_of(corpus)["a"]
    except UserError as error:
        assert "is not a segment; write: id recording begin end" in str(error)


def test_commands_in_wav_scp_are_refused(corpus: Path) -> None:
    (corpus / "wav.scp").write_text(f"ann0 touch {corpus}/ran |\n")
    with pytest.raises(UserError, match="is read by a command"):
        read_folder(corpus, corpus)
    assert not (corpus / "ran").exists()


def test_sides_of_a_call_are_recordings_of_their_own(corpus: Path) -> None:
    for path in corpus.glob("*.wav"):
        path.unlink()
    call = np.concatenate([noise("left"), noise("right") * 0.5], axis=1)
    soundfile.write(corpus / "call.wav", call, 16000, subtype="FLOAT")
    (corpus / "text").write_text("call-0 LEFT\ncall-1 RIGHT\n")
    (corpus / "utt2spk").write_text("call-0 ann\ncall-1 bea\n")
    found = read_folder(corpus, corpus.parent / "data", "split")
    checked = check(found.utterances)
    assert not found.problems and not checked.problems
    cuts = to_cut_sets(all_in_train(found.utterances), checked.heard)["train"]
    for cut, side in zip(cuts, call.T, strict=True):
        assert np.allclose(load_audio(cut, 16000).numpy(), side, atol=1e-6)
    mixed = check([Utterance("call", "train", "s", "BOTH", corpus / "call.wav")], channel="mix")
    cut = next(iter(to_cut_sets([Utterance("call", "train", "s", "BOTH", corpus / "call.wav")], mixed.heard)["train"]))
    assert np.allclose(load_audio(cut, 16000).numpy(), call.mean(axis=1), atol=1e-6)


def test_folders_named_after_splits(corpus: Path) -> None:
    for n, split in enumerate(("train", "valid", "test")):
        part = corpus.parent / "parts" / split
        part.mkdir(parents=True)
        soundfile.write(part / f"u{n}.wav", noise(split), 16000)
        (part / "text").write_text(f"u{n} WORD\n")
    found = read_folder(corpus.parent / "parts", corpus.parent / "data").utterances
    assert [(u.id, u.split) for u in sorted(found, key=lambda u: u.id)] == [
        ("u0", "train"),
        ("u1", "dev"),
        ("u2", "test"),
    ]


@pytest.mark.parametrize("main", ["anna", "ben", "carla", "dora", "e", "f", "g"])
def test_the_largest_speaker_trains_whatever_the_name(main: str) -> None:
    speakers = [main] * 36 + [f"guest{n}" for n in range(4)]
    utterances = [Utterance(f"u{n}", "", who, "X", None) for n, who in enumerate(speakers)]
    found = draw_splits(utterances, dict.fromkeys((u.id for u in utterances), 2.0))
    shares = {split: sum(u.split == split for u in found) for split in ("train", "dev", "test")}
    assert shares == {"train": 36, "dev": 2, "test": 2}
    # Speakers stay together, and one more moves few of the others.
    assert all(len({u.split for u in found if u.speaker == who}) == 1 for who in speakers)


def test_many_speakers_are_split_by_duration() -> None:
    rng = np.random.default_rng(0)
    utterances = [Utterance(f"u{n}", "", f"s{n // 5}", "X", None) for n in range(500)]
    durations = {u.id: float(rng.uniform(1, 20)) for u in utterances}
    found = draw_splits(utterances, durations)
    for split in ("dev", "test"):
        assert 0.08 < sum(durations[u.id] for u in found if u.split == split) / sum(durations.values()) < 0.16
    more = draw_splits([*utterances, Utterance("new", "", "s new", "X", None)], durations | {"new": 5.0})
    assert sum(a.split != b.split for a, b in zip(found, more, strict=False)) <= 50


def test_given_splits_are_judged() -> None:
    utterances = [
        Utterance("a", "train", "s1", "YES", None),
        Utterance("b", "dev", "s2", "NO", None),
        Utterance("c", "test", "s1", "YES", None),
    ]
    notes = across_splits(utterances, {"a": 1.0, "b": 5.0, "c": 5.0})
    assert any("1 of 1 speakers of test are in train too, such as s1" in note for note in notes)
    assert any("1 of 1 transcripts of test are in train too" in note for note in notes)
    assert any("train has only 0.0 of 0.2 minutes (9%)" in note for note in notes)
    assert across_splits(utterances[:2], {"a": 6000.0, "b": 5000.0}) == []
    few = across_splits(utterances[:2], {"a": 600.0, "b": 50.0})
    assert few == ["train has 10.0 minutes of speech: too few to learn more than a handful of words"]


def test_lengths_rules_for_text_and_counts_by_reason(corpus: Path) -> None:
    soundfile.write(corpus / "ann0.wav", noise("long", 50), 16000)
    soundfile.write(corpus / "ann1.wav", noise("longer", 70), 16000)
    (corpus / "text").write_text((corpus / "text").read_text().replace("WORD BEA0", "It’s “Bea”, 1984 <noise>"))
    args: list[str | Path] = [
        "prepare",
        "folder",
        "--corpus-dir",
        corpus,
        "--data-dir",
        corpus.parent / "data",
        "--max-seconds",
        "40",
    ]
    args += ["--text-normalization", "no-markers,upper,no-punctuation,split-digits"]
    done = run_cli(*args)
    assert done.returncode == 0 and "excluded by --min-seconds and --max-seconds: 2 utterances" in done.stderr
    folder = DataFolder(corpus.parent / "data")
    texts = {cut.id: cut.supervisions[0].text for split in ("train", "dev", "test") for cut in folder.read_cuts(split)}
    assert len(texts) == 14 and texts["bea0"] == "IT'S BEA 1 9 8 4"
    wrong = run_cli(*args[:6], "--text-normalization", "shout")
    assert wrong.returncode == 2 and "the rules are lower, upper" in wrong.stderr


def test_check_lists_rare_and_look_alike_characters(corpus: Path) -> None:
    lines = (corpus / "text").read_text().replace("WORD ANN0", "IT’S").replace("WORD ANN1", "IT'S ÿ")
    (corpus / "text").write_text(lines)
    done = run_cli("check", "folder", "--corpus-dir", corpus, "--data-dir", corpus.parent / "data")
    assert done.returncode == 0 and "'ÿ' (U+00FF)" in done.stderr
    assert "look alike and count as different ones: ''' (U+0027), '’' (U+2019)" in done.stderr


def test_a_moved_corpus_and_a_moved_data_folder_go_on_working(corpus: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    args = ("prepare", "folder", "--data-dir")
    assert run_cli(*args, data, "--corpus-dir", corpus).returncode == 0
    before = (data / "train.jsonl.gz").read_bytes()
    config = ["features.store=true", "features.speed_factors=[1.0,1.1]", "features.num_mel_bins=16"]
    assert run_cli("features", "--data-dir", data, *config).returncode == 0
    together = tmp_path / "elsewhere"
    together.mkdir()
    data, corpus = (Path(shutil.move(path, together)) for path in (data, corpus))
    cuts = DataFolder(data).read_features("train")
    assert all(cut.load_features() is not None and len(load_audio(cut, 16000)) for cut in cuts)
    data = Path(shutil.move(data, tmp_path / "deep" / "er"))
    assert run_cli(*args, data, "--corpus-dir", corpus).returncode == 0
    assert (data / "train.jsonl.gz").read_bytes() == before
    assert all(len(load_audio(cut, 16000)) for cut in DataFolder(data).read_features("train"))
    assert str(tmp_path) not in before.decode("latin-1")


def test_what_has_changed_in_the_corpus_is_named_by_the_next_stage(corpus: Path, tmp_path: Path) -> None:
    args: list[str | Path] = ["prepare", "folder", "--data-dir", tmp_path / "data", "--corpus-dir", corpus]
    assert run_cli(*args).returncode == 0
    (corpus / "text").write_text((corpus / "text").read_text().replace("WORD ANN0", "WORD ANNA"))
    for words in (args, ["tokenizer", "--data-dir", tmp_path / "data"], ["features", "--data-dir", tmp_path / "data"]):
        done = run_cli(*words)
        assert done.returncode == 2 and "text" in done.stderr and "Traceback" not in done.stderr
    assert run_cli(*args, "--force").returncode == 0
    assert run_cli("tokenizer", "--data-dir", tmp_path / "data").returncode == 0
    soundfile.write(corpus / "ann9.wav", noise("new"), 16000)
    for name, value in (("text", "NEW"), ("utt2spk", "ann")):
        with open(corpus / name, "a") as file:
            file.write(f"ann9 {value}\n")
    done = run_cli(*args)
    assert done.returncode == 2 and "files." in done.stderr
    (corpus / "split").write_text("".join(f"{id} {('dev', 'test', 'train')[n % 3]}\n" for n, id in enumerate(IDS)))
    done = run_cli(*args)
    assert done.returncode == 2 and "now it is" in done.stderr


def test_another_audio_file_under_the_same_name_is_a_change(corpus: Path, tmp_path: Path) -> None:
    args: list[str | Path] = ["prepare", "folder", "--data-dir", tmp_path / "data", "--corpus-dir", corpus]
    assert run_cli(*args).returncode == 0
    soundfile.write(corpus / "cat2.wav", noise("other"), 16000)
    os.utime(corpus / "cat2.wav", ns=(1, 1))
    for words in (args, ["tokenizer", "--data-dir", tmp_path / "data"]):
        done = run_cli(*words)
        assert done.returncode == 2 and "cat2.wav" in done.stderr


def test_lists_of_other_toolkits(corpus: Path, tmp_path: Path) -> None:
    nemo = [
        {"audio_filepath": f"{id}.wav", "text": f"WORD  {id.upper()}", "duration": 1.0, "speaker": id[:3]} for id in IDS
    ]
    (corpus / "train_manifest.json").write_text("\n".join(map(json.dumps, nemo)))
    part = {"audio_filepath": "ann0.wav", "text": "A PART", "offset": 0.25, "duration": 0.5, "split": "validation"}
    (corpus / "dev_manifest.jsonl").write_text(json.dumps(part) + "\n")
    plain = {u.id: (u.text, u.speaker) for u in read_folder(corpus, tmp_path / "data").utterances}
    found = {u.id: u for u in read_nemo(corpus, tmp_path / "data").utterances}
    assert {id: (u.text, u.speaker) for id, u in found.items() if u.split == "train"} == plain
    assert (found["ann0-00000250"].start_s, found["ann0-00000250"].duration_s) == (0.25, 0.5)
    assert found["ann0-00000250"].split == "dev"

    rows = "file_name,transcription,speaker_id\n" + "".join(f'{id}.wav,"WORD {id.upper()}",{id[:3]}\n' for id in IDS)
    (corpus / "metadata.csv").write_text(rows)
    face = read_huggingface(corpus, tmp_path / "data").utterances
    assert {u.id: (u.text, u.speaker) for u in face} == plain

    utterances = [Utterance(id, "train", plain[id][1], plain[id][0], corpus / f"{id}.wav") for id in IDS]
    to_cut_sets(utterances, check(utterances).heard)["train"].to_file(tmp_path / "my_train.jsonl.gz")
    found = {u.id: u for u in read_lhotse(tmp_path, tmp_path / "data").utterances}
    assert {id: (u.text, u.speaker) for id, u in found.items()} == plain and found["ann0"].duration_s is None


def test_a_manifest_that_runs_something_is_refused(corpus: Path, tmp_path: Path) -> None:
    folder = DataFolder(tmp_path / "data")
    read = read_corpus("folder", corpus, folder, Options())
    prepare_corpus(read, corpus, folder, skip_bad=False, num_jobs=1)
    values = [cut.to_dict() for cut in read_cuts(folder.cuts("train"), load_roots(folder.path))]
    hostile = {
        "only files are read": ("sources", [{"type": "command", "channels": [0], "source": f"touch {tmp_path}/ran"}]),
        "is changed by Volume": ("transforms", [{"name": "Volume", "kwargs": {"factor": 2}}]),
    }
    for words, (key, value) in hostile.items():
        changed = json.loads(json.dumps(values[0]))
        changed["recording"][key] = value
        (tmp_path / "hostile.jsonl").write_text(json.dumps(changed))
        with pytest.raises(UserError, match=words):
            read_cuts(tmp_path / "hostile.jsonl")
    assert not (tmp_path / "ran").exists()
    for id in ("a\nb", "a\x1b[31m", "\0", "", 5):
        (tmp_path / "hostile.jsonl").write_text(json.dumps(values[0] | {"id": id}))
        with pytest.raises(UserError, match="cannot be an id"):
            read_cuts(tmp_path / "hostile.jsonl")
    assert (
        DataFolder(tmp_path).tempo_audio(1.1, "../../../etc/x").parent
        == DataFolder(tmp_path).tempo_audio(1.1, "a").parent
    )


def test_a_starved_or_unsplittable_corpus_says_what_to_do(corpus: Path) -> None:
    (corpus / "utt2spk").write_text("".join(f"{id} me\n" for id in IDS))
    read = read_corpus("folder", corpus, DataFolder(corpus.parent / "data"), Options())
    with pytest.raises(UserError, match="1 speakers cannot be split into train, dev and test; write a file 'split'"):
        check_corpus(read, Options(), 1)


def test_matching_says_what_is_twice() -> None:
    notes: list[str] = []
    found, problems = match({"a": "1", "x/a.wav": "2", "b": "3"}, ["a"], "text", notes)
    assert found == {"a": "1"} and [p.id for p in problems] == ["a", "b"] and not notes


def test_repeated_ids_are_used_by_none(tmp_path: Path) -> None:
    paths = [tmp_path / f"{n}.wav" for n in range(3)]
    for n, path in enumerate(paths):
        soundfile.write(path, noise(path.stem, 1 + n), 16000)
    utterances = [Utterance(id, "train", "s", "ONE", path) for id, path in zip("aab", paths, strict=True)]
    checked = check(utterances)
    assert [(p.id, p.reason) for p in checked.problems] == [("a", "its id is in the lists more than once")] * 2
    assert [cut.id for cut in to_cut_sets(utterances, checked.heard)["train"]] == ["b"]


def test_audio_folders_by_split_with_the_same_file_names(tmp_path: Path) -> None:
    """Hugging Face's layout; speaker 0 is a speaker, and text with commas must be quoted."""
    for n, split in enumerate(("train", "validation", "test")):
        (tmp_path / split).mkdir()
        rows = [json.dumps({"file_name": f"{i}.wav", "text": "A WORD", "speaker_id": i}) for i in range(2)]
        (tmp_path / split / "metadata.jsonl").write_text("\n".join(rows))
        for i in range(2):
            soundfile.write(tmp_path / split / f"{i}.wav", noise(split + str(i), 1 + n), 16000)
    found = read_huggingface(tmp_path, tmp_path / "data")
    assert {(u.id, u.split, u.speaker) for u in found.utterances} == {
        (f"{folder}/{i}", split, str(i))
        for folder, split in (("train", "train"), ("validation", "dev"), ("test", "test"))
        for i in range(2)
    }
    assert not check(found.utterances).problems and not found.notes
    soundfile.write(tmp_path / "test-0.wav", noise("x"), 16000)
    (tmp_path / "metadata.csv").write_text("file_name,text\ntest-0.wav,hello\n")
    assert {u.split for u in read_huggingface(tmp_path, tmp_path).utterances if u.id == "test-0"} == {""}
    for line, message in (("test-0.wav,hello, world", "other columns"), ('test-0.wav,"hello', "quotation mark")):
        (tmp_path / "metadata.csv").write_text(f"file_name,text\n{line}\n")
        with pytest.raises(UserError, match=message):
            read_huggingface(tmp_path, tmp_path)


def test_half_characters_and_names_that_are_no_text_are_problems(corpus: Path) -> None:
    os.rename(corpus / "ann0.wav", os.fsencode(corpus) + b"/caf\xe9.wav")
    (corpus / "sub").mkdir()
    os.rename(corpus / "ann1.wav", os.fsencode(corpus) + b"/sub/ann1.wav")
    os.rename(corpus / "sub", os.fsencode(corpus) + b"/caf\xe9")
    found = problems_of(corpus)
    assert "rename the file" in found["caf\\udce9"] and "no audio" in found["ann0"] and "ann1" not in found
    rows = [{"audio_filepath": f"{id}.wav", "text": "hi \ud800" if id == "bea0" else "HI"} for id in IDS[2:]]
    (corpus / "train.json").write_text("\n".join(map(json.dumps, rows)))
    nemo = check(read_nemo(corpus, corpus.parent / "data").utterances)
    assert [p.id for p in nemo.problems] == ["bea0"] and "half a character" in nemo.problems[0].reason
    done = run_cli("prepare", "folder", "--corpus-dir", corpus, "--data-dir", corpus.parent / "data", "--skip-bad")
    assert done.returncode == 0, done.stderr
    cuts = [cut for name in ("train", "dev", "test") for cut in DataFolder(corpus.parent / "data").read_cuts(name)]
    assert len(cuts) == 15 and all(len(load_audio(cut, 16000)) for cut in cuts)


def test_an_unfinished_or_combined_folder_is_not_taken_for_a_current_one(corpus: Path, tmp_path: Path) -> None:
    part, both = tmp_path / "part", tmp_path / "both"
    assert run_cli("prepare", "folder", "--corpus-dir", corpus, "--data-dir", part).returncode == 0
    assert run_cli("combine", part, "--data-dir", both).returncode == 0
    require_same_corpus(DataFolder(both))
    record = (part / "inputs.json").read_text()
    (part / "inputs.json").write_text('{"unfinished": true}')
    with pytest.raises(UserError, match="was not prepared to the end"):
        require_same_corpus(DataFolder(part))
    (part / "inputs.json").write_text(record)
    text = (corpus / "text").read_text()
    (corpus / "text").write_text(text.replace("WORD ANN0", "WORD ANNA"))
    with pytest.raises(UserError, match="text has changed since it was prepared"):
        require_same_corpus(DataFolder(both))
    (corpus / "text").write_text(text)
    write_cuts(DataFolder(part).cuts("dev"), list(DataFolder(part).read_cuts("dev"))[1:], load_roots(part))
    with pytest.raises(UserError, match="has changed since it was combined"):
        require_same_corpus(DataFolder(both))


def test_cuts_are_written_as_lhotse_writes_them(corpus: Path) -> None:
    utterances = [Utterance(id, "train", "s", "ONE", corpus / f"{id}.wav", 0.25, 0.5) for id in IDS[:3]]
    cuts = list(to_cut_sets(utterances, check(utterances).heard)["train"])
    for cut in [*cuts, *(cut.perturb_speed(0.9) for cut in cuts), cuts[0].with_custom("tempo", 1.1)]:
        assert as_dict(cut) == cut.to_dict()


def test_many_recordings_take_no_square_of_time(corpus: Path) -> None:
    sound = check([Utterance("a", "train", "s", "ONE", corpus / "ann0.wav")]).heard["a"]
    many = [Utterance(f"u{n}", "train", "s", "ONE", corpus / f"{n}" / "x.wav", 0.1, 0.2) for n in range(6000)]
    begin = time.monotonic()
    cuts = to_cut_sets(many, {u.id: sound for u in many})["train"]
    assert time.monotonic() - begin < 5 and len({cut.recording_id for cut in cuts}) == 6000
