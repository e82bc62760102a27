"""TED-LIUM release 2 (Rousseau et al. 2014; OpenSLR 19; CC BY-NC-ND 3.0): 207 hours of TED talks, 16 kHz.

``TEDLIUM_release2/{train,dev,test}`` with a recording in ``sph`` and a transcript in ``stm`` for each talk.
"""

from __future__ import annotations

import re
from pathlib import Path

from lhotse.recipes.utils import normalize_text_tedlium

from asrkit.corpora.stm_release import read_stm_release
from asrkit.corpora.utterances import Corpus
from asrkit.errors import UserError
from asrkit.text.normalize import canonical


def read_tedlium2(corpus_dir: Path, data_dir: Path) -> Corpus:
    """The release's three splits.

    Raises:
        UserError: a split is missing, or a transcript cannot be read.
    """
    folder = corpus_dir / "TEDLIUM_release2"
    root = folder if folder.is_dir() else corpus_dir
    corpus = Corpus([])
    for split in ("train", "dev", "test"):
        stms = sorted((root / split / "stm").glob("*.stm"))
        if not stms:
            raise UserError(f"{root / split / 'stm'} has no stm files; --corpus-dir must hold TEDLIUM_release2")
        corpus.add(read_stm_release(stms, root / split / "sph", split, normalize_tedlium, several_channels=False))
    return corpus


def normalize_tedlium(text: str) -> str:
    """Words as in Kaldi's recipe: suffixes joined (``they 're``), marks of noise and unknown words dropped.

    Pronunciation numbers, ``the(2)``, and the utterance's name in parentheses at its end are dropped too.
    """
    text = re.sub(r"\{[^{}]*\}|<(?!unk>)[^<>]*>|\([^()\s]*\)", " ", text.lower())
    text = re.sub(r"(?<=\w) (?='\w)", "", canonical(text))  # both suffixes of o 'reilly 's; Lhotse joins only one
    return canonical(normalize_text_tedlium(text, "kaldi"))
