"""Half of LibriSpeech dev-clean (Panayotov et al. 2015; CC BY 4.0) as a small corpus of its own.

20 speakers in the release's layout, ``dev-clean/<speaker>/<chapter>/<id>.flac`` (or a re-encoded copy) and
``*.trans.txt``. Call it "LibriSpeech subset": its numbers do not compare with those on test-clean.
"""

from __future__ import annotations

from pathlib import Path

from asrkit.corpora.utterances import AUDIO_SUFFIXES, Utterance
from asrkit.errors import UserError
from asrkit.text.normalize import normalize_plain

TEST_SPEAKERS = ("84", "174", "251", "422")
DEV_SPEAKERS = ("652", "777")


def read_librispeech_subset(corpus_dir: Path, data_dir: Path) -> list[Utterance]:
    """All utterances; test is the speakers 84, 174, 251 and 422, dev 652 and 777, train the others.

    Raises:
        UserError: the folder is not the release.
    """
    root = next((path for path in (corpus_dir, corpus_dir / "LibriSpeech") if (path / "dev-clean").is_dir()), None)
    if root is None:
        raise UserError(f"{corpus_dir} holds no dev-clean; --corpus-dir must be LibriSpeech's folder")
    held_out = dict.fromkeys(TEST_SPEAKERS, "test") | dict.fromkeys(DEV_SPEAKERS, "dev")
    utterances = []
    for list_path in sorted((root / "dev-clean").rglob("*.trans.txt")):
        for line in list_path.read_text(encoding="utf-8").splitlines():
            id, _, text = line.partition(" ")
            speaker = id.split("-")[0]
            places = (list_path.parent / f"{id}{suffix}" for suffix in (".flac", *AUDIO_SUFFIXES))
            audio = next((path for path in places if path.is_file()), None)
            utterances.append(
                Utterance(id, held_out.get(speaker, "train"), speaker, normalize_plain(text) or None, audio)
            )
    return utterances
