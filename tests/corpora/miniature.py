"""Releases in miniature: a few clips of AN4 in the directory tree, file formats and transcript syntax of each corpus.

``python -m tests.corpora.miniature swb300 DIR CONFIG`` writes one and prints the settings with which a configuration's
model is tiny; ``run.sh --miniature`` of each recipe runs with both.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from asrkit.config_files import load_config
from asrkit.corpora.an4 import read_an4
from asrkit.corpora.utterances import Utterance
from asrkit.errors import UserError
from tests.corpora.shorten import write_shorten

AN4 = Path(__file__).resolve().parents[2] / "egs" / "an4" / "corpus"
GAP_S = 0.4
LIBRISPEECH = {"train-clean-100": 12, "dev-clean": 4, "test-clean": 4}
"""Utterances of each part."""
GLM = """;; A few of NIST's rules
* name "hub5 in miniature"
* desc "English"
* format = 'NIST1'
* max_nrules = '1000'
* copy_no_hit = 'T'
* case_sensitive = 'F'
[UH]  => (%HESITATION) / [ ] __ [ ]
[UM]  => (%HESITATION) / [ ] __ [ ]
[SIXTY ONE]  => {SIXTY ONE / SIXTYONE} / [ ] __ [ ]
"""
STM_HEADER = """;; CATEGORY "0" "" ""
;; LABEL "O" "Overall" "Overall"
"""


@dataclass(frozen=True)
class Turn:
    """What a side of a conversation says."""

    side: str
    start_s: float
    end_s: float
    text: str
    """In lower case."""


class Clips:
    """Utterances of AN4, each used once, at a sampling rate."""

    def __init__(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            found = [u for u in read_an4(AN4, Path(folder)).utterances if u.split == "train" and u.audio]
        self.remaining: Iterator[Utterance] = iter(found)

    def take(self, number: int) -> list[Utterance]:
        """The next ones."""
        return [next(self.remaining) for _ in range(number)]

    def recording(
        self, path: Path, number: int, rate_hz: int = 8000, sides: str = "AB", packed: bool = False
    ) -> list[Turn]:
        """Writes a recording in which the sides take turns: NIST SPHERE, mu-law where it has two sides, or shorten."""
        turns, parts, at = [], [], 0.0
        for n, u in enumerate(self.take(number)):
            assert u.audio is not None and u.text is not None
            samples, original_hz = soundfile.read(u.audio, dtype="float32")
            samples = samples[:: original_hz // rate_hz]
            silence = np.zeros(int(GAP_S * rate_hz), np.float32)
            side = sides[n % len(sides)]
            turns.append(Turn(side, round(at, 2), round(at + len(samples) / rate_hz, 2), u.text.lower()))
            both = np.zeros((len(samples) + len(silence), len(sides)), np.float32)
            both[: len(samples), sides.index(side)] = samples
            parts.append(both)
            at = round(at + len(both) / rate_hz, 2)
            parts.append(np.zeros((max(0, round(at * rate_hz) - sum(map(len, parts))), len(sides)), np.float32))
        if packed:
            write_shorten(path, np.concatenate(parts), rate_hz)
            return turns
        path.parent.mkdir(parents=True, exist_ok=True)
        kind, subtype = ("WAV", "PCM_16") if path.suffix == ".wav" else ("NIST", "ULAW" if len(sides) > 1 else "PCM_16")
        if path.suffix == ".flac":
            kind = "FLAC"
        soundfile.write(path, np.concatenate(parts), rate_hz, format=kind, subtype=subtype)
        return turns


def swb300(folder: Path) -> None:
    """LDC97S62, the Mississippi State transcripts, and the three test sets."""
    clips = Clips()
    _switchboard(folder, clips)
    _hub5(folder, clips)


def swb2000(folder: Path) -> None:
    """The releases of :func:`swb300`, Fisher's and CallHome's."""
    clips = Clips()
    _switchboard(folder, clips)
    for speech, texts, disc, name in (
        ("LDC2004S13", "LDC2004T19", "fisher_eng_tr_sp_d1/audio/000", "fe_03_00001"),
        ("LDC2005S13", "LDC2005T19", "fe_03_p2_sph1/audio/058", "fe_03_05851"),
    ):
        turns = clips.recording(folder / speech / disc / f"{name}.sph", 4, packed=True)
        lines = [f"# {name}.sph", "# Transcribed at the LDC", ""]
        lines += [f"{t.start_s:.2f} {t.end_s:.2f} {t.side}: {t.text} [laughter]\n" for t in turns[:3]]
        lines.append(f"{turns[3].start_s:.2f} {turns[3].end_s:.2f} {turns[3].side}: (( {turns[3].text} ))\n")
        write(folder / texts / "data" / "trans" / disc[-3:] / f"{name}.txt", lines)
    turns = clips.recording(folder / "LDC97S42" / "data" / "train" / "en_4065.sph", 4, packed=True)
    lines = ["#Language: eng", "#File id: 4065", ""]
    lines += [f"{t.start_s:.2f} {t.end_s:.2f} {t.side}: %uh {t.text} {{breath}}\n" for t in turns]
    write(folder / "LDC97T14" / "transcrpt" / "train" / "en_4065.txt", lines)
    _hub5(folder, clips)


def _switchboard(folder: Path, clips: Clips) -> None:
    for number in (2001, 2005, 2006):
        turns = clips.recording(folder / "LDC97S62" / "swb1_d1" / "data" / f"sw0{number}.sph", 8)
        for side in "AB":
            stem = f"sw{number}{side}-ms98-a"
            own = [t for t in turns if t.side == side]
            lines = [f"{stem}-0001 0.000000 {max(0.01, own[0].start_s):.6f} [silence]"]
            lines += [
                f"{stem}-{n:04d} {t.start_s:.6f} {t.end_s:.6f} {t.text} {'[noise]' if n % 2 else 'th[at]-'}"
                for n, t in enumerate(own, 2)
            ]
            place = folder / "swb_ms98_transcriptions" / str(number)[:2] / str(number)
            write(place / f"{stem}-trans.text", lines)
            write(place / f"{stem}-word.text", [f"{stem}-0001 0.000000 0.100000 [silence]"])

    dictionary = ["TV t iy v iy", "NASA n ae s ax", "tv t iy v iy", "uh ah"]
    write(folder / "swb_ms98_transcriptions" / "sw-ms98-dict.text", dictionary)


def _hub5(folder: Path, clips: Clips) -> None:
    english = folder / "LDC2002S09" / "hub5e_00" / "english"
    rows: list[str] = []
    for name in ("sw_4390", "en_4156"):
        rows += _stm(name, clips.recording(english / f"{name}.sph", 4, packed=name == "en_4156"), "O,F", "AB")
    reference = folder / "LDC2002T43" / "reference"
    write(reference / "hub5e00.english.000405.stm", [*STM_HEADER.splitlines(), *rows])
    write(reference / "en20000405_hub5.glm", GLM.splitlines())

    rows = []
    english = folder / "LDC2002S13" / "hub5e_01" / "english"
    for name, label in (("sw_20001", "SWB1"), ("sw_30012", "S2P3"), ("sw_45097", "S2P4")):
        rows += _stm(name, clips.recording(english / f"{name}.sph", 2), f"O,{label},M", "AB")
    write(folder / "LDC2002S13" / "hub5e_01" / "hub5e01.english.010402.stm", [*STM_HEADER.splitlines(), *rows])
    write(folder / "LDC2002S13" / "hub5e_01" / "en20010117_hub5.glm", GLM.splitlines())

    root = folder / "LDC2007S10" / "data"
    for name in ("fsh_60262", "sw_45098"):
        turns = clips.recording(root / "audio" / "eval03" / "english" / "cts" / f"{name}.sph", 2)
        write(root / "references" / "eval03" / "english" / "cts" / f"{name}.stm", _stm(name, turns, "O,M", "12"))
    write(root / "trans_rules" / "en20030506.glm", GLM.splitlines())


def _stm(name: str, turns: Sequence[Turn], labels: str, channels: str) -> list[str]:
    rows = [
        f"{name} {channels['AB'.index(t.side)]} {name}_{t.side} {t.start_s:.2f} {t.end_s:.2f} "
        f"<{labels}> (%HESITATION) {t.text.upper()}"
        for t in turns
    ]
    last = turns[-1].end_s
    return [
        *rows,
        f"{name} {channels[0]} {name}_A {last:.2f} {last + 0.2:.2f} <{labels}> IGNORE_TIME_SEGMENT_IN_SCORING",
    ]


def malach(folder: Path) -> None:
    """LDC2019S11 with Kaldi's lists, and the recordings that its commands read, of LDC2012S05."""
    clips = Clips()
    for part, names in (("train", [f"{n:05d}" for n in range(12)]), ("dev", ["00020", "00021"])):
        lists: dict[str, list[str]] = {name: [] for name in ("text", "segments", "utt2spk", "wav.scp")}
        for name in names:
            turns = clips.recording(folder / "LDC2012S05" / "data" / "wav" / f"{name}.flac", 2, 16000, "A")
            lists["wav.scp"].append(f"{name} flac -d -c /corpora/malach/{name}.flac |")
            for n, t in enumerate(turns):
                id = f"{name}-{n:03d}"
                lists["text"].append(f"{id} {t.text.upper()} <breath>")
                lists["segments"].append(f"{id} {name} {t.start_s:.2f} {t.end_s:.2f}")
                lists["utt2spk"].append(f"{id} {name}")
        for file, lines in lists.items():
            write(folder / "LDC2019S11" / "data" / part / file, lines)


def librispeech(folder: Path, sizes: Mapping[str, int] = LIBRISPEECH) -> None:
    """``LibriSpeech/<part>/<speaker>/<chapter>/<id>.flac`` and ``*.trans.txt``."""
    clips = Clips()
    for number, (part, size) in enumerate(sizes.items()):
        librispeech_speaker(folder / "LibriSpeech" / part, str(100 + number), clips.take(size))


def librispeech_speaker(part: Path, speaker: str, utterances: Sequence[Utterance]) -> None:
    """A chapter of a speaker."""
    chapter = part / speaker / "7"
    chapter.mkdir(parents=True)
    lines = []
    for n, u in enumerate(utterances):
        assert u.audio is not None
        samples, rate_hz = soundfile.read(u.audio, dtype="int16")
        soundfile.write(chapter / f"{speaker}-7-{n:04d}.flac", samples, rate_hz)
        lines.append(f"{speaker}-7-{n:04d} {u.text}")
    write(chapter / f"{speaker}-7.trans.txt", lines)


def tedlium2(folder: Path) -> None:
    """``TEDLIUM_release2/{train,dev,test}/{sph,stm}``."""
    clips = Clips()
    for split, talks in (("train", 4), ("dev", 2), ("test", 2)):
        for number in range(talks):
            name = f"{split.capitalize()}Speaker_{2000 + number}"
            root = folder / "TEDLIUM_release2" / split
            turns = clips.recording(root / "sph" / f"{name}.sph", 3, 16000, "A")
            rows = [f"{name} 1 {name} {t.start_s:.2f} {t.end_s:.2f} <o,f0,male> {t.text} {{NOISE}}" for t in turns]
            rows.append(f"{name} 1 inter_segment_gap 0 0.1 <o,,unknown> ignore_time_segment_in_scoring")
            write(root / "stm" / f"{name}.stm", rows)


def csj(folder: Path) -> None:
    """``WAV/{core,noncore}/*.wav`` and ``MORPH/SDB/{core,noncore}/*.sdb`` in Shift JIS, one word per line."""
    clips = Clips()
    talks = {"core": ["A01F0576", "S01F0105", "A01M0110"], "noncore": ["A01F0610", "A01M0264", "A01M0056", "S00M0112"]}
    said = ["(F_えー)", "と", "いう", "わけ", "で", "(D_そ)", "それ", "は"]
    for volume, names in talks.items():
        for name in names:
            turns = clips.recording(folder / "WAV" / volume / f"{name}.wav", 3, 16000, "A")
            lines = []
            for n, t in enumerate(turns, 1):
                time = f"{n:04d} {t.start_s:09.3f}-{t.end_s:09.3f} L:-001-001"
                for word in said[n : n + 4]:
                    fields = [name, "1", name, time, "", word, "", "", "", word, word, "名詞", "", "", "", "", ""]
                    lines.append("\t".join(fields))
            _write_sdb(folder / "MORPH" / "SDB" / volume / f"{name}.sdb", lines)
    _csj_dialogue(folder, clips)


def _csj_dialogue(folder: Path, clips: Clips) -> None:
    """A dialogue, whose sides are recordings of their own; a tag spans two segments of one side."""
    name = "D01F0002"
    lines: list[str] = []
    said = {"L": ["(笑_そう", "です)"], "R": ["はい", "ええ"]}
    turns = {side: clips.recording(folder / "WAV" / "core" / f"{name}-{side}.wav", 2, 16000, "A") for side in "LR"}
    for n in range(2):
        for side in "LR":
            t, word = turns[side][n], said[side][n]
            time = f"{len(lines) + 1:04d} {t.start_s:09.3f}-{t.end_s:09.3f} {side}:-001-001"
            lines.append("\t".join([name, "1", name, time, "", word, "", "", "", word, word, "名詞", *[""] * 5]))
    _write_sdb(folder / "MORPH" / "SDB" / "core" / f"{name}.sdb", lines)


def _write_sdb(path: Path, lines: Sequence[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(("\n".join(lines) + "\n").encode("shift_jis"))


def write(path: Path, lines: Sequence[str]) -> None:
    """Writes lines of a list."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


TINY = (
    "features.speed_factors=[1.0]",
    "features.num_mel_bins=16",
    "model.predictor.embedding_dim=8",
    "model.joiner.joiner_dim=16",
    "train.num_epochs=2",
    "train.num_workers=0",
    "train.batch_seconds=20",
    "train.average_epochs=2",
    "train.num_buckets=2",
    "train.schedule.warmup_epochs=1",
)
CONFORMER = tuple(
    f"model.encoder.conformer.{setting}"
    for setting in ("num_layers=1", "d_model=16", "num_heads=2", "head_dim=8", "max_relative_distance=8")
)


def tiny_settings(path: Path) -> list[str]:
    """Overrides with which a configuration's model trains in seconds."""
    config = load_config(path)
    settings = [*TINY]
    if config.model.predictor.type == "lstm":
        settings.append("model.predictor.hidden_dim=8")
    if config.features.tempo_factors:
        settings += ["features.tempo_factors=[]"]
    if config.features.deltas:
        settings.append("features.deltas=false")
    if config.features.speaker_vector_dim:
        settings.append("features.speaker_vector_dim=0")
    if config.tokenizer.type != "char":
        settings += ["tokenizer.vocab_size=40", "tokenizer.soft_limit=true"]
    encoder = config.model.encoder
    if encoder.type == "blstm":
        return [*settings, "model.encoder.blstm.num_layers=2", "model.encoder.blstm.cells=8"]
    settings += CONFORMER
    if encoder.subsampling > 1:
        settings.append("model.encoder.conformer.subsampling_channels=4")
    if encoder.type == "dssformer":
        return [*settings, "model.encoder.dss.state_dim=4"]
    return [*settings, "model.encoder.conformer.conv_kernel=5"]


BUILDERS: dict[str, Callable[[Path], None]] = {
    "swb300": swb300,
    "swb2000": swb2000,
    "malach": malach,
    "librispeech": librispeech,
    "tedlium2": tedlium2,
    "csj": csj,
}


def main(name: str, folder: Path, config: Path) -> None:
    """Writes a release and prints a configuration's tiny settings."""
    if name not in BUILDERS:
        raise UserError(f"--miniature is for {', '.join(BUILDERS)}; run egs/{name}/run.sh on its corpus")
    if load_config(config).loss.frame_epochs:
        raise UserError(f"{config} trains on alignments: give --miniature a transducer's configuration")
    settings = tiny_settings(config)
    shutil.rmtree(folder, ignore_errors=True)
    BUILDERS[name](folder)
    print(*settings, sep="\n")


if __name__ == "__main__":
    try:
        main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
    except UserError as error:
        sys.exit(f"{error}")
