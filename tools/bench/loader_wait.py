"""How long training waits for data: one epoch of AN4 with features computed on the fly by two workers.

Usage: .venv/bin/python tools/bench/loader_wait.py [--json]
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from asrkit.config_files import load_config
from asrkit.corpora.an4 import read_an4
from asrkit.corpora.prepare import prepare_corpus
from asrkit.data.feature_store import compute_statistics, make_features
from asrkit.data.folder import SPLITS, DataFolder
from asrkit.data.transcripts import transcript
from asrkit.features.pipeline import FeaturePipeline
from asrkit.files import write_json
from asrkit.scoring.experiment import read_metrics
from asrkit.text.tokenizer import train_tokenizer
from asrkit.training.run import run_training

ROOT = Path(__file__).resolve().parents[2]


def main() -> None:
    """Prepares AN4 in a temporary folder, trains one epoch and prints the share of time spent waiting."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print a JSON object as the last line")
    arguments = parser.parse_args()
    overrides = ["features.store=false", "train.num_workers=2", "train.num_epochs=1", "loss.ctc_only_epochs=0"]
    overrides += ["train.schedule.warmup_epochs=0.5"]
    config = load_config(ROOT / "egs/an4/conf/conformer.yaml", overrides)
    with tempfile.TemporaryDirectory() as name:
        folder = DataFolder(Path(name))
        corpus_dir = ROOT / "egs/an4/corpus"
        prepare_corpus(read_an4(corpus_dir, folder.path), corpus_dir, folder, skip_bad=False, num_jobs=2)
        pipeline = FeaturePipeline(normalization="none")
        for split in SPLITS:
            make_features(
                folder.read_cuts(split),
                split,
                folder,
                sampling_rate_hz=16000,
                num_mel_bins=80,
                speed_factors=config.features.speed_factors,
                store=False,
            )
        train = folder.read_cuts("train")
        folder.save_statistics(compute_statistics(train, pipeline))
        write_json(folder.tokenizer, train_tokenizer(map(transcript, train), "char", 0).to_dict())
        run_training(config, folder.path, folder.path / "exp")
        (line,) = read_metrics(folder.path / "exp" / "metrics.jsonl")
    speed = line["speech_s"] / line["seconds"]
    print(f"waited {100 * line['wait_share']:.2f} % of {line['seconds']:.1f} s; {speed:.0f} s of speech a second")
    if arguments.json:
        print(json.dumps({"wait_share": line["wait_share"], "seconds": line["seconds"], "speech_s": line["speech_s"]}))


if __name__ == "__main__":
    main()
