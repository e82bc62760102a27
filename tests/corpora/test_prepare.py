from __future__ import annotations

import gc
import json
import tracemalloc
from pathlib import Path

import numpy as np
import soundfile

from asrkit.corpora.prepare import Options, prepare_corpus, read_corpus
from asrkit.corpora.utterances import Utterance, overlaps
from asrkit.data.folder import DataFolder

MOST_BYTES = 1000
"""Of memory for each segment of a recording; two million need less than 2 GB."""


def peak_bytes(folder: Path, segments: int) -> int:
    """While a manifest of so many segments of one recording is read, checked and written."""
    corpus_dir = folder / f"corpus_{segments}"
    corpus_dir.mkdir()
    soundfile.write(corpus_dir / "r.wav", np.random.default_rng(0).normal(0, 0.1, 240_000), 8000)
    with open(corpus_dir / "manifest.jsonl", "w") as file:
        for n in range(segments):
            values = {"id": f"r-{n:06}", "offset": n / 1000, "duration": 1.0, "text": f"WORD {n % 100}"}
            file.write(json.dumps(values | {"audio_filepath": "r.wav", "speaker": f"s{n % 20}"}) + "\n")
    data = DataFolder(folder / f"data_{segments}")
    gc.collect()
    tracemalloc.start()
    corpus = read_corpus("nemo", corpus_dir, data, Options())
    numbers, _ = prepare_corpus(corpus, corpus_dir, data, skip_bad=False, num_jobs=1)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert sum(numbers.values()) == segments
    return peak


def test_a_segment_costs_little_memory(tmp_path: Path) -> None:
    few, many = 1000, 7000
    assert peak_bytes(tmp_path, many) - peak_bytes(tmp_path, few) < MOST_BYTES * (many - few)


def test_segments_that_overlap_are_noted(tmp_path: Path) -> None:
    def part(id: str, start_s: float, duration_s: float, channel: int = 0) -> Utterance:
        return Utterance(id, "train", "s", "WORD", tmp_path / "r.wav", start_s, duration_s, channel)

    apart = [part("a", 0.0, 2.0), part("b", 1.98, 1.0), part("c", 1.0, 1.0, channel=1)]
    assert overlaps(apart) == []
    assert overlaps([*apart, part("d", 2.5, 0.3), part("e", 2.7, 1.0), part("f", 5.0, 1.0)]) == [
        "2 utterances, such as d, begin before another one of their recording and channel ends, so that both hold that "
        "speech"
    ]
