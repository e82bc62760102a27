"""Training on frame labels: the acoustic model of a hybrid recognizer, or an encoder to start from.

Hu et al. 2020 (arXiv 2005.00572) start a transducer from an encoder trained this way, on another model's alignments.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from asrkit.config import Config
from asrkit.data.alignments import Alignments, read_alignments
from asrkit.data.batching import Batch
from asrkit.data.folder import DataFolder
from asrkit.data.index import digest_of_cuts
from asrkit.errors import UserError
from asrkit.files import companion
from asrkit.losses.frame_cross_entropy import NO_LABEL, frame_cross_entropy, frame_labels
from asrkit.models.encoder import Encoder
from asrkit.models.transducer import Transducer
from asrkit.records import INPUTS, Record, digest
from asrkit.training.objective import Losses, LossPart
from asrkit.training.phase import Phase

FRAME_ERROR = "frame_error"
"""Name of the measure on dev."""
FRAMES = "frames"
"""The phase of training in which frames are classified."""


class FrameObjective(nn.Module):
    """Cross-entropy on the labels of frames in the phase ``frames``; another objective in the others.

    Args:
        supervised: the objective of the other phases.
        encoder: the trained one.
        vocab_size: V.
        projection: width of a linear layer before the softmax, 0 for none.
        alignments: of the training set, and of dev if it is measured by frames.
        frame_shift_s: seconds between the frames of the encoder's output.
    """

    def __init__(
        self,
        supervised: nn.Module,
        encoder: Encoder,
        vocab_size: int,
        projection: int,
        alignments: Mapping[str, Alignments],
        frame_shift_s: float,
    ) -> None:
        super().__init__()
        self.supervised = supervised
        layers: list[nn.Module] = [nn.Linear(encoder.output_dim, projection)] if projection else []
        self.head = nn.Sequential(*layers, nn.Linear(projection or encoder.output_dim, vocab_size))
        self.alignments, self.frame_shift_s = alignments, frame_shift_s

    def forward(self, model: Transducer, batch: Batch, phase: Phase) -> Losses:
        """Sums over the utterances of a batch; an utterance's loss is the mean over its frames."""
        if phase.name != FRAMES:
            losses: Losses = self.supervised(model, batch, phase)
            return losses
        by_utterance, wrong, frames = self.classify(model.encoder, batch, "train")
        total, number = (by_utterance / frames).sum(), int(frames.sum())
        parts = {
            "frames": LossPart(by_utterance.sum().detach(), number),
            "frame_error": LossPart(wrong.sum(), number),
        }
        return Losses(total, batch.num_utterances, parts)

    def classify(self, encoder: Encoder, batch: Batch, split: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(B,) sums of the cross-entropy, wrong frames, and frames of each utterance.

        Raises:
            UserError: an utterance without an alignment.
        """
        encoder_out, encoder_lens = encoder(batch.features, batch.feature_lens)
        token_lens = batch.token_lens.tolist()
        starts_s = self.alignments[split].starts(batch.utterance_ids, token_lens).to(encoder_out.device)
        tokens = batch.tokens[:, : starts_s.shape[1]]
        labels = frame_labels(tokens, starts_s, batch.token_lens, encoder_lens, self.frame_shift_s)
        losses, wrong = frame_cross_entropy(self.head(encoder_out[:, : labels.shape[1]]), labels)
        return losses, wrong, (labels != NO_LABEL).sum(dim=1)


def aligned_splits(config: Config) -> tuple[str, ...]:
    """The splits whose alignments training reads."""
    if not config.loss.frame_epochs:
        return ()
    return ("train", "dev") if config.train.dev_measure == FRAME_ERROR else ("train",)


def frame_objective(
    config: Config, supervised: nn.Module, model: Transducer, folder: DataFolder, frame_shift_s: float
) -> FrameObjective:
    """The objective that the settings describe, with the alignments of prepared data.

    Args:
        config: the experiment.
        supervised: see :class:`FrameObjective`.
        model: the trained one.
        folder: prepared data.
        frame_shift_s: seconds between the model's input frames.

    Raises:
        UserError: missing alignments, or settings under which they do not hold.
    """
    changes = {
        "length_perturbation": config.length_perturbation.drop_probability > 0
        or config.length_perturbation.insert_probability > 0,
        "nbest_label_smoothing": config.nbest_label_smoothing.probability > 0,
        "train.mix": bool(config.train.mix),
        "bl_just.loss": config.bl_just.loss != "none",
        "loss.consistency_weight": config.loss.consistency_weight > 0,
    }
    if used := [name for name, is_used in changes.items() if is_used]:
        raise UserError(f"loss.frame_epochs needs the utterances that were aligned: switch off {', '.join(used)}")
    alignments = {split: _current_alignments(folder, split) for split in aligned_splits(config)}
    shift_s = frame_shift_s * model.encoder.subsampling
    return FrameObjective(
        supervised, model.encoder, model.vocab_size, config.loss.frame_projection, alignments, shift_s
    )


def _current_alignments(folder: DataFolder, split: str) -> Alignments:
    """The alignments of a split.

    Raises:
        UserError: there are none, or they are of other cuts or symbols.
    """
    path = folder.alignments(split)
    alignments = read_alignments(path)
    inputs = {"digest of cuts": digest_of_cuts(folder, split), "digest of tokenizer": digest(folder.tokenizer)}
    record = Record(companion(path, f".{INPUTS}"), inputs)
    if not record.is_current():
        changed = (record.difference() or "its record").split("=")[0]
        raise UserError(f"{path} is of other data ({changed} differs); run asrkit align --force")
    return alignments
