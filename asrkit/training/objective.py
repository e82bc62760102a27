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


Objective = Callable[[nn.Module, Batch], Losses]
"""From the (possibly wrapped) model and a batch to losses."""


def transducer_objective(ctc_weight: float) -> Objective:
    """Transducer loss plus ``ctc_weight`` times the encoder's CTC loss (Saon et al. 2023, arXiv 2302.14120: 0.1)."""

    def objective(model: nn.Module, batch: Batch) -> Losses:
        logits, ctc_logits, encoder_lens = model(batch.features, batch.feature_lens, batch.tokens)
        transducer = transducer_loss(logits, batch.tokens, encoder_lens, batch.token_lens).sum()
        ctc = ctc_loss(ctc_logits, batch.tokens, encoder_lens, batch.token_lens).sum()
        return Losses(transducer + ctc_weight * ctc, {"transducer": transducer.item(), "ctc": ctc.item()})

    return objective
