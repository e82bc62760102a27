"""Anyone's corpus: a folder of audio and a file ``text`` with one line an utterance, ``id words …``.

Next to ``text`` may lie ``utt2spk`` (``id speaker``; without it every utterance is its own speaker) and
``split`` (``id train|dev|test``; without it, whole speakers are drawn for dev and test).
"""

from __future__ import annotations

from pathlib import Path

from asrkit.corpora.utterances import AUDIO_SUFFIXES, Utterance
from asrkit.data.folder import SPLITS
from asrkit.errors import UserError
from asrkit.files import utf8_lines
from asrkit.randomness import seeded_generator
from asrkit.text.normalize import normalize_plain

HELD_OUT_SHARE = 0.1


def read_folder(corpus_dir: Path, data_dir: Path) -> list[Utterance]:
    """All utterances that the lists or the disk know of; an utterance's id is its audio file's name.

    Without a ``split`` file about a tenth of the speakers goes to dev and another to test, by a hash of
    their names, so that adding speakers moves few of the others; each gets one at least.

    Raises:
        UserError: no ``text`` file, no audio, two files of one name, or fewer than three speakers and no ``split``
            file.
    """
    if not (corpus_dir / "text").is_file():
        raise UserError(
            f"{corpus_dir / 'text'} is missing; write one line an utterance: its audio file's name, then its words"
        )
    texts = _read_pairs(corpus_dir / "text")
    audio: dict[str, Path] = {}
    for path in sorted(corpus_dir.rglob("*")):
        if path.suffix.lower() in AUDIO_SUFFIXES[:-1] and audio.setdefault(path.stem, path) != path:
            raise UserError(
                f"{audio[path.stem]} and {path} have the same name, which is the utterance's id; rename one"
            )
    if not audio:
        raise UserError(f"no audio under {corpus_dir}; looked for {' '.join(AUDIO_SUFFIXES[:-1])}")
    speakers = _read_pairs(corpus_dir / "utt2spk") if (corpus_dir / "utt2spk").is_file() else {}
    ids = [*texts, *sorted(audio.keys() - texts.keys())]
    speaker_of = {id: speakers.get(id, id) for id in ids}
    splits = _splits(corpus_dir / "split", ids, speaker_of)
    return [
        Utterance(id, splits[id], speaker_of[id], normalize_plain(texts[id]) if id in texts else None, audio.get(id))
        for id in ids
    ]


def _splits(path: Path, ids: list[str], speaker_of: dict[str, str]) -> dict[str, str]:
    if path.is_file():
        stated = _read_pairs(path)
        for id, split in stated.items():
            if split not in SPLITS:
                raise UserError(f"{path}: '{id}' is in '{split}'; the splits are train, dev and test")
        return {id: stated.get(id, "train") for id in ids}
    order = sorted(set(speaker_of.values()), key=lambda s: seeded_generator("split", s).initial_seed())
    if len(order) < len(SPLITS):
        raise UserError(f"{len(order)} speakers cannot be split into train, dev and test; write a file {path}")
    held = max(1, round(HELD_OUT_SHARE * len(order)))
    split_of = dict.fromkeys(order[:held], "dev") | dict.fromkeys(order[held : 2 * held], "test")
    return {id: split_of.get(speaker_of[id], "train") for id in ids}


def _read_pairs(path: Path) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for number, line in enumerate(utf8_lines(path), 1):
        if not line.strip():
            continue
        id, value = [*line.split(maxsplit=1), ""][:2]
        if id in pairs:
            raise UserError(f"{path}:{number}: '{id}' stands there twice")
        pairs[id] = value.strip()
    return pairs
