"""What supervised training minimises."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from asrkit.config_losses import LossConfig
from asrkit.data.batching import Batch
from asrkit.errors import UserError
from asrkit.losses.consistency import consistency_loss
from asrkit.losses.ctc import ctc_loss
from asrkit.losses.k2_transducer import k2_pruned_losses, k2_pruned_transducer_loss
from asrkit.losses.pruned_transducer import pruned_transducer_loss, pruning_bounds, simple_transducer_loss
from asrkit.losses.torchaudio_transducer import torchaudio_transducer_loss
from asrkit.losses.transducer import transducer_loss
from asrkit.models.conformer import Conformer
from asrkit.models.encoder import Encoder
from asrkit.models.transducer import SimpleJoiner, Transducer
from asrkit.training.phase import Phase

CTC, TRANSDUCER = "ctc", "transducer"
"""Training phases: the encoder alone by CTC, then the complete transducer."""


@dataclass(frozen=True)
class LossPart:
    """A part of a loss, for reporting."""

    total: torch.Tensor
    """Scalar without gradient."""
    number: int
    """Number of summed utterances, frames or symbols."""


@dataclass(frozen=True)
class Losses:
    """The losses of a batch."""

    total: torch.Tensor
    """What is minimised: a scalar with gradient."""
    number: int
    """Number of summed utterances or symbols; the update's loss is the mean over them."""
    parts: dict[str, LossPart]
    """By name."""
    name: str = "loss"
    """Reported name of the total."""


class Trainable(nn.Module):
    """A model with its objective: all trained parameters, with a step's complete forward pass in one call.

    Args:
        model: the part that ships.
        objective: called with the model, a batch and the phase; its own parameters are trained and not shipped.
    """

    def __init__(self, model: nn.Module, objective: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.objective = objective

    def forward(self, batch: Any, phase: Phase) -> Losses:
        """The losses of a batch."""
        losses: Losses = self.objective(self.model, batch, phase)
        return losses


class TransducerObjective(nn.Module):
    """Transducer loss plus ``ctc_weight`` times the encoder's CTC loss (Saon et al. 2023, arXiv 2302.14120: 0.1).

    In the phase ``ctc``, only the CTC loss: the encoder starts from a CTC model, as in Cui et al. 2022
    (arXiv 2203.15176). Without it, the predictor memorizes the transcripts before a small corpus has taught the
    encoder to align, and the gradient that would teach it shrinks.

    Args:
        config: loss settings.
        model: determines the head sizes.

    Raises:
        UserError: settings that contradict each other.
    """

    def __init__(self, config: LossConfig, model: Transducer) -> None:
        super().__init__()
        self.config = config
        self.lattice = _lattice(config)
        encoder_dim, predictor_dim = model.encoder.output_dim, model.predictor.output_dim
        self.ctc_head: nn.Linear | None = None
        self.simple_joiner: SimpleJoiner | None = None
        if config.ctc_weight > 0 or config.ctc_only_epochs > 0:
            self.ctc_head = nn.Linear(encoder_dim, model.vocab_size)
        if config.prune_range:
            self.simple_joiner = SimpleJoiner(encoder_dim, predictor_dim, model.vocab_size)
        if self.ctc_head is None and (config.consistency_weight or config.intermediate_ctc_weight):
            raise UserError("loss.consistency_weight and intermediate_ctc_weight need a loss.ctc_weight above 0")
        self.block = 0
        if config.intermediate_ctc_weight:
            self.block = _inner_block(config.intermediate_ctc_block, model.encoder)

    def forward(self, model: Transducer, batch: Batch, phase: Phase) -> Losses:
        """Sums over the utterances of a batch; several views of an utterance are averaged."""
        encoder_out, encoder_lens, inside = _encode(model.encoder, batch, self.block)
        parts: dict[str, torch.Tensor] = {}
        total = encoder_out.new_zeros((), dtype=torch.float32)
        if self.ctc_head is not None:
            ctc_logits = self.ctc_head(encoder_out)
            parts["ctc"] = ctc = self._ctc(ctc_logits, encoder_lens, batch)
            if inside is not None:
                parts["intermediate_ctc"] = self._ctc(self.ctc_head(inside), encoder_lens, batch)
                share = self.config.intermediate_ctc_weight
                ctc = (1 - share) * ctc + share * parts["intermediate_ctc"]
            if batch.views == 2:
                parts["consistency"] = consistency_loss(ctc_logits, encoder_lens).sum()
                ctc = ctc + self.config.consistency_weight * parts["consistency"]
            total = total + (ctc if phase.name == CTC else self.config.ctc_weight * ctc)
        if phase.name != CTC:
            transducer = self.lattice(self, model, encoder_out, encoder_lens, batch)
            parts["transducer"] = transducer / batch.views if batch.views > 1 else transducer
            total = total + parts["transducer"]
        number = batch.num_utterances
        return Losses(total, number, {name: LossPart(part.detach(), number) for name, part in parts.items()})

    @staticmethod
    def _ctc(ctc_logits: torch.Tensor, encoder_lens: torch.Tensor, batch: Batch) -> torch.Tensor:
        total = ctc_loss(ctc_logits, batch.tokens, encoder_lens, batch.token_lens).sum()
        return total / batch.views if batch.views > 1 else total


def _inner_block(number: int, encoder: Encoder) -> int:
    """The block, from 1, whose output has its own CTC loss.

    Raises:
        UserError: an encoder without blocks, or without that one.
    """
    if not isinstance(encoder, Conformer):
        raise UserError("loss.intermediate_ctc_weight needs a conformer or a DSSformer")
    number = number or len(encoder.blocks) // 2
    if not 0 < number < len(encoder.blocks):
        raise UserError(f"loss.intermediate_ctc_block is {number}; the encoder has {len(encoder.blocks)} blocks")
    return number


def _encode(encoder: Encoder, batch: Batch, block: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """encoder_out, encoder_lens, and the output of an inner block, None if ``block`` is 0."""
    if not block:
        encoder_out, encoder_lens = encoder(batch.features, batch.feature_lens)
        return encoder_out, encoder_lens, None
    assert isinstance(encoder, Conformer)
    encoder_out, encoder_lens, (inside,) = encoder.forward_blocks(batch.features, batch.feature_lens, (block,))
    return encoder_out, encoder_lens, inside


Lattice = Callable[[TransducerObjective, Transducer, torch.Tensor, torch.Tensor, Batch], torch.Tensor]
"""(objective, model, encoder_out, encoder_lens, batch) to the sum of the transducer losses."""


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
        return _pruned_lattice
    if implementation == "torchaudio":
        return _torchaudio_lattice
    return partial(_full_lattice, fastemit_lambda=config.fastemit_lambda)


def _full_lattice(
    objective: TransducerObjective,
    model: Transducer,
    encoder_out: torch.Tensor,
    encoder_lens: torch.Tensor,
    batch: Batch,
    fastemit_lambda: float,
) -> torch.Tensor:
    predictor_out = model.predictor(batch.tokens)
    logits = model.joiner.packed(encoder_out, predictor_out, encoder_lens, batch.token_lens)
    return transducer_loss(
        logits, batch.tokens, encoder_lens, batch.token_lens, reduction="sum", fastemit_lambda=fastemit_lambda
    )


def _torchaudio_lattice(
    objective: TransducerObjective,
    model: Transducer,
    encoder_out: torch.Tensor,
    encoder_lens: torch.Tensor,
    batch: Batch,
) -> torch.Tensor:
    encoder_out = encoder_out[:, : int(encoder_lens.max())]
    logits = model.joiner(encoder_out, model.predictor(batch.tokens))
    return torchaudio_transducer_loss(logits, batch.tokens, encoder_lens, batch.token_lens)


def _pruned_lattice(
    objective: TransducerObjective,
    model: Transducer,
    encoder_out: torch.Tensor,
    encoder_lens: torch.Tensor,
    batch: Batch,
) -> torch.Tensor:
    """The pruned loss plus ``simple_weight`` times that of the trivial joiner, by this package or by k2."""
    config = objective.config
    assert objective.simple_joiner is not None
    predictor_out = model.predictor(batch.tokens)
    labels = batch.tokens, encoder_lens, batch.token_lens
    parts: tuple[torch.Tensor, torch.Tensor] = objective.simple_joiner(encoder_out, predictor_out)
    am_scale, lm_scale, size = config.am_only_scale, config.lm_only_scale, config.prune_range
    loss = k2_pruned_transducer_loss if config.implementation == "k2" else pruned_transducer_loss
    too_many = (batch.token_lens > (size - 1) * encoder_lens).tolist()
    if any(too_many):
        id = batch.utterance_ids[too_many.index(True) % batch.num_utterances]
        raise UserError(
            f"{id} has more labels than loss.prune_range={size} lets through; raise it or exclude the utterance"
        )
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
