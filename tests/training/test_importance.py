"""EL2N and GraNd of utterances (Paul et al. 2021, arXiv 2107.07075)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from asrkit.data.batching import Batch
from asrkit.losses.ctc import ctc_loss
from asrkit.training.importance import batch_scores
from asrkit.training.run import run_training
from tests.conftest import Workshop, run_cli, tiny_model


def test_the_scores_are_of_each_utterances_own_gradient() -> None:
    model = tiny_model().eval()
    torch.manual_seed(0)
    head = nn.Linear(16, 6)
    x, lens = torch.randn(3, 64, 16), torch.tensor([64, 48, 30])
    tokens, token_lens = torch.tensor([[1, 2, 3], [4, 5, 0], [1, 0, 0]]), torch.tensor([3, 2, 1])
    scores = batch_scores(model, head, Batch(x, lens, tokens, token_lens, [], {}))
    for b in range(3):
        head.zero_grad()
        with torch.no_grad():
            hidden, encoder_lens = model.encoder(x[b : b + 1, : lens[b]], lens[b : b + 1])
        logits = head(hidden)
        logits.retain_grad()
        ctc_loss(logits, tokens[b : b + 1], encoder_lens, token_lens[b : b + 1]).sum().backward()
        assert logits.grad is not None and head.weight.grad is not None and head.bias.grad is not None
        assert scores[b, 0] == pytest.approx(logits.grad[0].norm(dim=1).mean().item(), rel=1e-4)
        norm = torch.cat([head.weight.grad.flatten(), head.bias.grad]).norm().item()
        assert scores[b, 1] == pytest.approx(norm, rel=1e-4)


def test_a_trained_model_scores_its_training_set(workshop: Workshop, tmp_path: Path) -> None:
    exp = workshop.folder / "scored"
    run_training(workshop.config(num_epochs=1), workshop.data_dir, exp)
    output = tmp_path / "scores.jsonl"
    models = [exp / "averaged.safetensors", exp / "checkpoints" / "epoch-0001.safetensors"]
    command: list[str | Path] = [
        "utterance-scores",
        "--model",
        models[0],
        "--model",
        models[1],
        "--data-dir",
        workshop.data_dir,
    ]
    done = run_cli(*command, "--output", output)
    assert "scored 24 utterances" in done.stderr, done.stderr
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert len({row["id"] for row in rows}) == 24 and all(row["el2n"] > 0 < row["grand"] for row in rows)
    assert "done before" in run_cli(*command, "--output", output).stderr
    refused = run_cli(*command[:3], "--data-dir", workshop.data_dir, "--output", output)
    assert refused.returncode == 2 and "digests of models" in refused.stderr
