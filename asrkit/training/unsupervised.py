"""What training on speech without transcripts minimises: BEST-RQ or CPC, with any encoder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from asrkit.bundle.model_file import load_recognizer
from asrkit.config import Config
from asrkit.config_unsupervised import BestRqConfig, CpcConfig
from asrkit.errors import UserError
from asrkit.losses.best_rq import (
    RandomProjectionQuantizer,
    draw_mask,
    mask_with_noise,
    masked_cross_entropy,
    masked_frames,
    pca_projection,
    stack_for_encoder,
)
from asrkit.losses.contrastive import info_nce
from asrkit.models.conformer import Conformer
from asrkit.models.encoder import Encoder
from asrkit.randomness import seeded_generator


class BestRqObjective(nn.Module):
    """Predicts the labels of masked frames (Chiu et al. 2022, arXiv 2202.01855).

    Args:
        config: its settings.
        encoder: that is trained.
        feature_dim: F of its input.
        seed: of projection and codebooks.
        frames: (N, s·F) input of encoder frames, of which the projection takes principal components; a random
            projection without.
        teacher: an encoder from whose inner block labels are taken, in place of the input.

    Raises:
        UserError: settings that contradict each other.
    """

    def __init__(
        self,
        config: BestRqConfig,
        encoder: Encoder,
        feature_dim: int,
        seed: int,
        frames: torch.Tensor | None = None,
        teacher: Encoder | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self._teacher = (teacher.eval(),) if teacher is not None else ()  # in a tuple: it is not trained, and not saved
        input_dim = teacher.output_dim if teacher is not None else encoder.subsampling * feature_dim
        projection = None
        if config.projection == "pca" and frames is not None:
            try:
                projection = pca_projection(frames, config.codebook_dim)
            except ValueError as error:
                raise UserError(f"bl_just.best_rq.projection=pca: {error}; lower codebook_dim") from error
        self.quantizer = RandomProjectionQuantizer(
            input_dim,
            codebook_size=config.codebook_size,
            codebook_dim=config.codebook_dim,
            num_codebooks=config.num_codebooks,
            generator=seeded_generator("best_rq", seed),
            projection=projection,
        )
        self.head = nn.Linear(encoder.output_dim, config.num_codebooks * config.codebook_size)

    def forward(self, encoder: Encoder, x: torch.Tensor, x_lens: torch.Tensor) -> torch.Tensor:
        """(B,) losses of features (B, T, F) with (B,) frames: the mean over the masked frames of each."""
        config = self.config
        masked = draw_mask(x_lens, x.shape[1], config.mask_probability, config.mask_span)
        encoder_out, encoder_lens = encoder(mask_with_noise(x, masked, config.noise_std), x_lens)
        frames = encoder_out.shape[1]
        logits = self.head(encoder_out).unflatten(-1, (config.num_codebooks, config.codebook_size))
        real = torch.arange(frames, device=x.device) < encoder_lens[:, None]
        return masked_cross_entropy(
            logits, self.labels(x, x_lens, encoder, frames), masked_frames(masked, encoder.subsampling, frames) & real
        )

    def labels(self, x: torch.Tensor, x_lens: torch.Tensor, encoder: Encoder, frames: int) -> torch.Tensor:
        """(B, T', C) labels of the unmasked features."""
        if not self._teacher:
            found: torch.Tensor = self.quantizer(stack_for_encoder(x, encoder.subsampling, frames))
            return found
        teacher = self._teacher[0].to(x.device)
        assert isinstance(teacher, Conformer)
        with torch.no_grad():
            _, _, (inside,) = teacher.forward_blocks(x, x_lens, (self.config.align_block,))
        found = self.quantizer(inside)
        return found


class CpcObjective(nn.Module):
    """Predicts what follows a window of speech (van den Oord et al. 2018, arXiv 1807.03748).

    The encoder sees the window alone; from its last output, a linear map for each step ahead predicts a linear map of
    the input there. Negatives are all other targets of the batch: other times, and other utterances.

    Args:
        config: its settings.
        encoder: that is trained.
        feature_dim: F of its input.
    """

    def __init__(self, config: CpcConfig, encoder: Encoder, feature_dim: int) -> None:
        super().__init__()
        self.config = config
        self.predict = nn.Linear(encoder.output_dim, config.num_steps * config.dim)
        self.target = nn.Linear(encoder.subsampling * feature_dim, config.dim)

    def forward(self, encoder: Encoder, x: torch.Tensor, x_lens: torch.Tensor) -> torch.Tensor:
        """(B,) losses of features (B, T, F) with (B,) frames: the mean over the windows and steps of each.

        An utterance that is shorter than a window has one as long as it leaves; one that leaves none counts 0.
        """
        steps, s = self.config.num_steps, encoder.subsampling
        ahead = steps * s
        width = -(-self.config.window_frames // s) * s
        owner, begin, length = _windows(x_lens.tolist(), width, ahead, s)
        if not owner:
            return x.new_zeros(len(x)) + 0.0 * (self.predict.weight.sum() + self.target.weight.sum())
        rows = torch.tensor(owner, device=x.device)
        first, lens = torch.tensor(begin, device=x.device), torch.tensor(length, device=x.device)
        widest = int(lens.max())
        seen = _cut(x, rows, first, widest) * (torch.arange(widest, device=x.device) < lens[:, None])[..., None]
        encoder_out, encoder_lens = encoder(seen, lens)
        last = encoder_out[torch.arange(len(rows), device=x.device), encoder_lens - 1]
        predicted = self.predict(last).unflatten(-1, (steps, -1))
        target = self.target(_cut(x, rows, first + lens, ahead).reshape(len(rows), steps, -1))
        losses = info_nce(predicted.flatten(0, 1), target.flatten(0, 1), self.config.temperature)
        by_window = losses.view(len(rows), steps).mean(dim=1)
        sums = by_window.new_zeros(len(x)).index_add(0, rows, by_window)
        return sums / torch.bincount(rows, minlength=len(x)).clamp(min=1)


def _windows(lens: Sequence[int], width: int, ahead: int, s: int) -> tuple[list[int], list[int], list[int]]:
    """Whose each window is, where it begins, and its frames; a random rest is left out at the beginning."""
    owner, begin, length = [], [], []
    for b, frames in enumerate(lens):
        room = frames - ahead
        own = min(width, room // s * s)
        if own < s:
            continue
        number = max(1, room // own)
        offset = int(torch.randint(room - number * own + 1, ()))
        owner += [b] * number
        begin += [offset + n * own for n in range(number)]
        length += [own] * number
    return owner, begin, length


def _cut(x: torch.Tensor, rows: torch.Tensor, first: torch.Tensor, width: int) -> torch.Tensor:
    """(W, width, F) stretches of (B, T, F) that begin at (W,) frames of the (W,) rows."""
    x = F.pad(x, (0, 0, 0, width))
    return x[rows[:, None], first[:, None] + torch.arange(width, device=x.device)]


def unsupervised_objective(
    config: Config, encoder: Encoder, feature_dim: int, frames: torch.Tensor | None
) -> BestRqObjective | CpcObjective:
    """The unsupervised loss that ``bl_just.loss`` names.

    Args:
        config: the experiment.
        encoder: that is trained.
        feature_dim: F of its input.
        frames: see :class:`BestRqObjective`.

    Raises:
        UserError: settings that contradict each other, or a model to align with that cannot be used.
    """
    settings = config.bl_just
    if settings.loss == "cpc":
        return CpcObjective(settings.cpc, encoder, feature_dim)
    teacher: Encoder | None = None
    if path := settings.best_rq.align_from:
        teacher, block = load_recognizer(Path(path)).model.encoder, settings.best_rq.align_block
        if not isinstance(teacher, Conformer) or block > len(teacher.blocks):
            raise UserError(f"bl_just.best_rq.align_from={path} has no block {block}; set bl_just.best_rq.align_block")
        if teacher.subsampling != encoder.subsampling or teacher.feature_dim != feature_dim:
            raise UserError(f"bl_just.best_rq.align_from={path} reads other features, or at another rate")
    return BestRqObjective(settings.best_rq, encoder, feature_dim, config.train.seed, frames, teacher)
