from __future__ import annotations

from pathlib import Path

import torch

from asrkit.bundle.model_file import save_recognizer
from asrkit.data.folder import DataFolder
from asrkit.data.index import open_index
from tests.conftest import run_cli, tiny_bundle


def test_hypotheses_become_transcripts_of_prepared_data(folder_corpus: Path, tmp_path: Path) -> None:
    speech, labelled, model = tmp_path / "speech", tmp_path / "labelled", tmp_path / "model.safetensors"
    bundle = tiny_bundle()
    with torch.no_grad():
        bundle.model.joiner.out.weight.mul_(6)
    save_recognizer(model, bundle)
    prepared = run_cli("prepare", "folder", "--unlabelled", "--corpus-dir", folder_corpus, "--data-dir", speech)
    assert prepared.returncode == 0, prepared.stderr
    assert run_cli("features", "--data-dir", speech, "features.num_mel_bins=16").returncode == 0
    command: list[str | Path] = ["pseudo-label", "--model", model, "--data-dir", speech, "--out-dir", labelled]
    done = run_cli(*command)
    assert "labelled 16 of 16 utterances" in done.stderr, done.stderr
    assert "done before" in run_cli(*command).stderr
    cuts = list(DataFolder(labelled).read_cuts("train"))
    assert all(cut.supervisions[0].text for cut in cuts)
    assert len({cut.supervisions[0].text for cut in cuts}) > 1
    assert run_cli("features", "--data-dir", labelled, "features.num_mel_bins=16").returncode == 0
    index = open_index(DataFolder(labelled), "train", bundle.tokenizer)
    assert len(index) == 16 and (index.num_tokens > 0).all()
    refused = run_cli(*command, "--min-confidence", "0.9999", "--force")
    assert refused.returncode == 2 and "lower it" in refused.stderr
    assert len(list(DataFolder(labelled).read_cuts("train"))) == 16  # what was there stays
