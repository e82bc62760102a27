"""What supervised training minimises."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from asrkit.data.batching import Batch
from asrkit.losses.transducer import ctc_loss, transducer_loss


@dataclass(frozen=True)
class Losses:
    """Sums over the utterances of a batch."""

    total: torch.Tensor
    """What is minimised, a scalar with gradient."""
    parts: dict[str, float]
    """The loss's parts by name, for the report."""


Objective = Callable[[nn.Module, Batch, int], Losses]
"""From the (possibly wrapped) model, a batch and the epoch (from 1) to losses."""


def transducer_objective(ctc_weight: float, ctc_only_epochs: int = 0) -> Objective:
    """Transducer loss plus ``ctc_weight`` times the encoder's CTC loss (Saon et al. 2023, arXiv 2302.14120: 0.1).

    During the first ``ctc_only_epochs`` the CTC loss alone: the encoder starts from a CTC model, as that of
    Cui et al. 2022 (arXiv 2203.15176). Without it, the predictor learns the transcripts by heart before a
    small corpus has taught the encoder to align, and the gradient that would teach it shrinks.
    """

    def objective(model: nn.Module, batch: Batch, epoch: int) -> Losses:
        ctc_only = epoch <= ctc_only_epochs
        logits, ctc_logits, encoder_lens = model(batch.features, batch.feature_lens, None if ctc_only else batch.tokens)
        ctc = ctc_loss(ctc_logits, batch.tokens, encoder_lens, batch.token_lens).sum()
        if ctc_only:
            return Losses(ctc, {"ctc": ctc.item()})
        transducer = transducer_loss(logits, batch.tokens, encoder_lens, batch.token_lens).sum()
        return Losses(transducer + ctc_weight * ctc, {"transducer": transducer.item(), "ctc": ctc.item()})

    return objective
