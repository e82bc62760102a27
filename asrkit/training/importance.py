"""How much each utterance matters to a briefly trained model: the core-set scores EL2N and GraNd, for speech.

Paul et al. 2021 (arXiv 2107.07075) score a classified example by its output error (EL2N) and by the norm of the loss
gradient (GraNd). Here the classifier is the CTC head of a recognizer. Its loss has the gradient G = softmax − γ with
respect to the logits (T', V), where γ are the symbol posteriors given the transcript, in place of the one-hot label.
An utterance's EL2N is the mean of ‖G_t‖₂ over its frames, its GraNd the norm of the gradient of the head's weights and
biases, ‖Σ_t G_t [h_t; 1]ᵀ‖, with h_t the head's input.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from asrkit.bundle.front_end import build_pipeline
from asrkit.bundle.model_file import ModelBundle, read_model_file, recognizer_of
from asrkit.console import progress_bar
from asrkit.data.batching import Batch
from asrkit.data.folder import DataFolder
from asrkit.data.index import CutIndex, open_index
from asrkit.data.loaders import in_batches
from asrkit.errors import UserError
from asrkit.losses.ctc import ctc_loss
from asrkit.models.transducer import Transducer

EL2N, GRAND = "el2n", "grand"
HEADS = ("objective.ctc_head", "objective.supervised.ctc_head")
"""Names of a CTC head among the training-only tensors."""
BATCH_SECONDS = 120.0


def utterance_scores(paths: Sequence[Path], folder: DataFolder, num_workers: int = 0) -> dict[str, dict[str, float]]:
    """Scores of the training utterances by id, averaged over models.

    Args:
        paths: checkpoints or final models, each trained with a CTC loss.
        folder: prepared data with their symbols.
        num_workers: loader processes.

    Raises:
        UserError: a model without a CTC head or with other symbols, or unreadable data.
    """
    sums: dict[str, np.ndarray] = {}
    for path in paths:
        bundle, head = _with_head(path)
        if folder.load_tokenizer().to_dict() != bundle.tokenizer.to_dict():
            raise UserError(f"{path} has other symbols than {folder.tokenizer}; give models trained on these data")
        index = open_index(folder, "train", bundle.tokenizer)
        for id, scores in _scores(bundle, head, index, folder, num_workers):
            sums[id] = sums.get(id, np.zeros(2)) + scores / len(paths)
    return {id: {EL2N: float(scores[0]), GRAND: float(scores[1])} for id, scores in sums.items()}


def _scores(
    bundle: ModelBundle[Transducer], head: nn.Linear, index: CutIndex, folder: DataFolder, num_workers: int
) -> list[tuple[str, np.ndarray]]:
    pipeline = build_pipeline(bundle.config, folder.load_statistics() | bundle.statistics)
    rows: list[tuple[str, np.ndarray]] = []
    with progress_bar("score", len(index)) as bar:
        for batch in in_batches(index, pipeline, BATCH_SECONDS, bundle.tokenizer, num_workers):
            for id, scores in zip(batch.utterance_ids, batch_scores(bundle.model, head, batch), strict=True):
                rows.append((id, scores))
                bar.advance()
    return rows


def batch_scores(model: Transducer, head: nn.Linear, batch: Batch) -> np.ndarray:
    """(B, 2) EL2N and GraNd of a batch."""
    with torch.no_grad():
        hidden, lens = model.encoder(batch.features, batch.feature_lens)  # (B, T', D)
        logits = head(hidden).float()
    logits.requires_grad_()
    with torch.enable_grad():
        ctc_loss(logits, batch.tokens, lens, batch.token_lens).sum().backward()
    assert logits.grad is not None
    error = logits.grad  # 0 in the padding
    el2n = error.norm(dim=2).sum(dim=1) / lens.clamp(min=1)
    weights, biases = torch.einsum("btv,btd->bvd", error, hidden.float()), error.sum(dim=1)
    grand = (weights.square().sum(dim=(1, 2)) + biases.square().sum(dim=1)).sqrt()
    return torch.stack([el2n, grand], dim=1).double().numpy()


def read_scores(path: Path, kind: str, index: CutIndex) -> torch.Tensor:
    """(N,) scores of an index's utterances, from :func:`utterance_scores` saved as JSON lines.

    Raises:
        UserError: a missing or unreadable file, or one that lacks an utterance.
    """
    if not path.is_file():
        raise UserError(f"train.sampling.scores: there is no file {path}; create it with asrkit utterance-scores")
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        ids, values = [row["id"] for row in rows], torch.tensor([float(row[kind]) for row in rows])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} cannot be read ({error}); rebuild it with asrkit utterance-scores") from error
    numbers = torch.from_numpy(index.find(ids))
    scores = torch.full((len(index),), torch.nan)
    scores[numbers[numbers >= 0]] = values[numbers >= 0]
    if bool(scores.isnan().any()):
        id = index[int(scores.isnan().nonzero()[0])].id
        raise UserError(f"{path} has no score of {id}; run asrkit utterance-scores on this training set")
    return scores


def _with_head(path: Path) -> tuple[ModelBundle[Transducer], nn.Linear]:
    file = read_model_file(path)
    bundle = recognizer_of(file)
    for name in HEADS:
        if (weight := file.tensors.get(f"{name}.weight")) is not None:
            head = nn.Linear(weight.shape[1], weight.shape[0])
            head.load_state_dict({"weight": weight, "bias": file.tensors[f"{name}.bias"]})
            return bundle, head
    raise UserError(f"{path} has no CTC head; give a checkpoint of a training with loss.ctc_weight above 0")
