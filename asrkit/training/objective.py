"""What supervised training minimises."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from asrkit.config import LossConfig
from asrkit.data.batching import Batch
from asrkit.errors import UserError
from asrkit.losses.ctc import ctc_loss
from asrkit.losses.k2_transducer import k2_pruned_losses, k2_pruned_transducer_loss
from asrkit.losses.pruned_transducer import pruned_transducer_loss, pruning_bounds, simple_transducer_loss
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

    lattice = _lattice(config)
    return objective


Lattice = Callable[[Transducer, torch.Tensor, torch.Tensor, Batch], torch.Tensor]
"""From the model, encoder_out, encoder_lens and the batch to the sum of the transducer losses."""


def _lattice(config: LossConfig) -> Lattice:
    """The transducer loss that the settings name.

    Raises:
        UserError: settings that contradict each other.
    """
    pruned, implementation = config.prune_range > 0, config.implementation
    if implementation == "k2" and not pruned:
        raise UserError("loss.implementation=k2 computes the pruned loss: set loss.prune_range, such as 5")
    if implementation == "k2" and importlib.util.find_spec("k2") is None:
        raise UserError("loss.implementation=k2 needs k2, which is not installed: see tools/install_k2.sh")
    if config.prune_range < 0 or config.prune_range == 1:
        raise UserError(f"loss.prune_range is {config.prune_range}; give 0 (full lattice) or 2 and more, such as 5")
    if implementation == "torchaudio" and pruned:
        raise UserError("loss.implementation=torchaudio computes the full lattice: set loss.prune_range=0")
    if config.fastemit_lambda and (pruned or implementation != "ours"):
        raise UserError("loss.fastemit_lambda needs loss.implementation=ours and loss.prune_range=0")
    if pruned:
        return partial(_pruned_lattice, config=config)
    if implementation == "torchaudio":
        return _torchaudio_lattice
    return partial(_full_lattice, fastemit_lambda=config.fastemit_lambda)


def _full_lattice(
    model: Transducer, encoder_out: torch.Tensor, encoder_lens: torch.Tensor, batch: Batch, fastemit_lambda: float
) -> torch.Tensor:
    predictor_out = model.predictor(batch.tokens)
    logits = model.joiner.packed(encoder_out, predictor_out, encoder_lens, batch.token_lens)
    return transducer_loss(
        logits, batch.tokens, encoder_lens, batch.token_lens, reduction="sum", fastemit_lambda=fastemit_lambda
    )


def _torchaudio_lattice(
    model: Transducer, encoder_out: torch.Tensor, encoder_lens: torch.Tensor, batch: Batch
) -> torch.Tensor:
    from torchaudio.functional import rnnt_loss

    encoder_out = encoder_out[:, : int(encoder_lens.max())]  # it takes no batch that is padded further
    logits = model.joiner(encoder_out, model.predictor(batch.tokens)).float().contiguous()
    return rnnt_loss(logits, batch.tokens.int(), encoder_lens.int(), batch.token_lens.int(), blank=0, reduction="sum")


def _pruned_lattice(
    model: Transducer, encoder_out: torch.Tensor, encoder_lens: torch.Tensor, batch: Batch, config: LossConfig
) -> torch.Tensor:
    """The pruned loss plus ``simple_weight`` times that of the trivial joiner, by this package or by k2."""
    assert model.simple_joiner is not None
    predictor_out = model.predictor(batch.tokens)
    labels = batch.tokens, encoder_lens, batch.token_lens
    parts: tuple[torch.Tensor, torch.Tensor] = model.simple_joiner(encoder_out, predictor_out)
    am_scale, lm_scale, size = config.am_only_scale, config.lm_only_scale, config.prune_range
    loss = k2_pruned_transducer_loss if config.implementation == "k2" else pruned_transducer_loss
    too_many = (batch.token_lens > (size - 1) * encoder_lens).tolist()
    if any(too_many):
        id = batch.utterance_ids[too_many.index(True)]
        raise UserError(f"{id} has more labels than loss.prune_range={size} lets through; raise it or set it aside")
    with torch.autocast(encoder_out.device.type, enabled=False):
        if config.implementation == "k2":
            simple, bounds = k2_pruned_losses(
                *parts, *labels, prune_range=size, am_only_scale=am_scale, lm_only_scale=lm_scale
            )
        else:
            simple, posteriors = simple_transducer_loss(*parts, *labels, am_only_scale=am_scale, lm_only_scale=lm_scale)
            bounds = pruning_bounds(posteriors, encoder_lens, batch.token_lens, size)
    logits = model.joiner.pruned(encoder_out, predictor_out, bounds)
    pruned = loss(logits, batch.tokens, bounds, encoder_lens, batch.token_lens)
    return pruned.sum() + config.simple_weight * simple.sum()
