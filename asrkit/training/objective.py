"""What supervised training minimises."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from asrkit.config import LossConfig
from asrkit.data.batching import Batch
from asrkit.losses.ctc import ctc_loss
from asrkit.losses.transducer import transducer_loss
from asrkit.models.transducer import Transducer


@dataclass(frozen=True)
class Losses:
    """Sums over the utterances of a batch."""

    total: torch.Tensor
    """What is minimised, a scalar with gradient."""
    parts: dict[str, torch.Tensor]
    """The loss's parts by name, for the report; scalars without gradient."""


Objective = Callable[[Transducer, Batch, int], Losses]
"""From the model, a batch and the epoch (from 1) to losses."""


class ObjectiveModule(nn.Module):
    """A model with its objective, so that all of a step's forward pass runs inside DistributedDataParallel."""

    def __init__(self, model: Transducer, objective: Objective) -> None:
        super().__init__()
        self.model = model
        self.objective = objective

    def forward(self, batch: Batch, epoch: int) -> Losses:
        """The losses of a batch."""
        return self.objective(self.model, batch, epoch)


def transducer_objective(config: LossConfig) -> Objective:
    """Transducer loss plus ``ctc_weight`` times the encoder's CTC loss (Saon et al. 2023, arXiv 2302.14120: 0.1).

    During the first ``ctc_only_epochs`` the CTC loss alone: the encoder starts from a CTC model, as that of
    Cui et al. 2022 (arXiv 2203.15176). Without it, the predictor learns the transcripts by heart before a
    small corpus has taught the encoder to align, and the gradient that would teach it shrinks.
    """

    def objective(model: Transducer, batch: Batch, epoch: int) -> Losses:
        encoder_out, encoder_lens = model.encoder(batch.features, batch.feature_lens)
        parts: dict[str, torch.Tensor] = {}
        total = encoder_out.new_zeros((), dtype=torch.float32)
        if model.ctc_head is not None:
            ctc = ctc_loss(model.ctc_head(encoder_out), batch.tokens, encoder_lens, batch.token_lens).sum()
            parts["ctc"] = ctc.detach()
            total = total + (ctc if epoch <= config.ctc_only_epochs else config.ctc_weight * ctc)
        if epoch > config.ctc_only_epochs:
            transducer = lattice(model, encoder_out, encoder_lens, batch)
            parts["transducer"] = transducer.detach()
            total = total + transducer
        return Losses(total, parts)

    lattice = _torchaudio_lattice if config.implementation == "torchaudio" else _full_lattice
    return objective


def _full_lattice(
    model: Transducer, encoder_out: torch.Tensor, encoder_lens: torch.Tensor, batch: Batch
) -> torch.Tensor:
    predictor_out = model.predictor(batch.tokens)
    logits = model.joiner.packed(encoder_out, predictor_out, encoder_lens, batch.token_lens)
    return transducer_loss(logits, batch.tokens, encoder_lens, batch.token_lens, reduction="sum")


def _torchaudio_lattice(
    model: Transducer, encoder_out: torch.Tensor, encoder_lens: torch.Tensor, batch: Batch
) -> torch.Tensor:
    from torchaudio.functional import rnnt_loss

    logits = model.joiner(encoder_out, model.predictor(batch.tokens)).float().contiguous()
    return rnnt_loss(
        logits, batch.tokens.int(), encoder_lens.int(), batch.token_lens.int(), blank=0, reduction="sum"
    )
