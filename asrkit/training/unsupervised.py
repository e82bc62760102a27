"""What training on speech without transcripts minimises: BEST-RQ or CPC, with any encoder."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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
    label_entropies,
    mask_with_noise,
    masked_cross_entropy,
    masked_frames,
    stack_for_encoder,
)
from asrkit.losses.contrastive import info_nce
from asrkit.masking import valid_mask
from asrkit.models.conformer import Conformer
from asrkit.models.encoder import Encoder
from asrkit.randomness import seeded_generator

SAMPLED_FRAMES = 20_000
"""Most encoder frames used for principal components and the statistics of labels."""
MOST_COUNTED = 512
"""Most labels of a codebook whose pairs can be counted in so many frames."""


class BestRqObjective(nn.Module):
    """Predicts the labels of masked frames (Chiu et al. 2022, arXiv 2202.01855).

    Args:
        config: its settings.
        encoder: the trained one.
        feature_dim: F of its input.
        seed: for projection and codebooks.
        speech: (T, F) features of utterances, for the principal components of ``config.projection=pca``.
        teacher: an encoder whose inner block is labelled in place of the input.

    Raises:
        UserError: settings that contradict each other.
    """

    def __init__(
        self,
        config: BestRqConfig,
        encoder: Encoder,
        feature_dim: int,
        seed: int,
        speech: Iterable[torch.Tensor] = (),
        teacher: Conformer | None = None,
    ) -> None:
        super().__init__()
        self.config, self.subsampling = config, encoder.subsampling
        self._teacher = (teacher.eval(),) if teacher is not None else ()  # in a tuple: neither trained nor saved
        try:
            self.quantizer = RandomProjectionQuantizer(
                teacher.output_dim if teacher is not None else encoder.subsampling * feature_dim,
                codebook_size=config.codebook_size,
                codebook_dim=config.codebook_dim,
                num_codebooks=config.num_codebooks,
                generator=seeded_generator("best_rq", seed),
                frames=self._frames(speech) if config.projection == "pca" else None,
            )
        except ValueError as error:
            raise UserError(f"bl_just.best_rq.projection=pca: {error}; lower codebook_dim") from error
        self.head = nn.Linear(encoder.output_dim, config.num_codebooks * config.codebook_size)

    def forward(
        self, encoder: Encoder, x: torch.Tensor, x_lens: torch.Tensor, generators: Sequence[torch.Generator]
    ) -> torch.Tensor:
        """(B,) losses of features (B, T, F) with (B,) frames: the mean over each one's masked frames.

        Each utterance's generator decides which frames are masked, and with what.
        """
        config = self.config
        masked = draw_mask(x_lens, x.shape[1], config.mask_probability, config.mask_span, generators)
        encoder_out, encoder_lens = encoder(mask_with_noise(x, masked, config.noise_std, generators), x_lens)
        frames = encoder_out.shape[1]
        logits = self.head(encoder_out).unflatten(-1, (config.num_codebooks, config.codebook_size))
        counted = masked_frames(masked, self.subsampling, frames) & valid_mask(encoder_lens, frames)
        return masked_cross_entropy(logits, self.labels(x, x_lens, frames), counted)

    def labels(self, x: torch.Tensor, x_lens: torch.Tensor, frames: int) -> torch.Tensor:
        """(B, T', C) labels of the unmasked features."""
        labels: torch.Tensor = self.quantizer(self._labelled(x, x_lens, frames))
        return labels

    @torch.no_grad()
    def _labelled(self, x: torch.Tensor, x_lens: torch.Tensor, frames: int) -> torch.Tensor:
        """(B, T', I) what is labelled: the input of each encoder frame, or a teacher block's output."""
        if not self._teacher:
            return stack_for_encoder(x, self.subsampling, frames)
        _, _, (inside,) = self._teacher[0].to(x.device).forward_blocks(x, x_lens, (self.config.align_block,))
        return inside

    def entropies(self, speech: Iterable[torch.Tensor]) -> tuple[float, float] | None:
        """:func:`label_entropies` of (T, F) features of utterances; None if they are too few for so many labels."""
        if self.config.codebook_size > MOST_COUNTED:
            return None
        device = self.quantizer.projection.device
        labels = [self.quantizer(x.to(device)).cpu() for x in self._first(speech) if len(x) > 1]
        return label_entropies(labels, self.config.codebook_size) if len(labels) > 1 else None

    def _frames(self, speech: Iterable[torch.Tensor]) -> torch.Tensor:
        """(N, I) frames of the first utterances.

        Raises:
            ValueError: none has a frame.
        """
        return torch.cat(self._first(speech) or [torch.zeros(0, 1)])

    def _first(self, speech: Iterable[torch.Tensor]) -> list[torch.Tensor]:
        """(T', I) of the first utterances each."""
        frames: list[torch.Tensor] = []
        for x in speech:
            if number := len(x) // self.subsampling:
                frames.append(self._labelled(x[None], torch.tensor([len(x)]), number)[0])
            if sum(map(len, frames)) >= SAMPLED_FRAMES:
                break
        return frames


class CpcObjective(nn.Module):
    """Predicts what follows a window of speech (van den Oord et al. 2018, arXiv 1807.03748).

    The encoder sees only the window; from its last output, a linear map for each step ahead predicts a linear map of
    the input there. Negatives are all other targets of the batch: other times, and other utterances.

    Args:
        config: its settings.
        encoder: the trained one.
        feature_dim: F of its input.

    Raises:
        UserError: a window shorter than what follows it.
    """

    def __init__(self, config: CpcConfig, encoder: Encoder, feature_dim: int) -> None:
        super().__init__()
        self.config, self.subsampling = config, encoder.subsampling
        self.width = -(-config.window_frames // encoder.subsampling) * encoder.subsampling
        if self.width < config.num_steps * encoder.subsampling:
            raise UserError(
                f"bl_just.cpc.window_frames={config.window_frames} is less than the {config.num_steps} steps ahead of "
                f"{encoder.subsampling} frames each: windows would predict the same frames; raise it"
            )
        self.predict = nn.Linear(encoder.output_dim, config.num_steps * config.dim)
        self.target = nn.Linear(encoder.subsampling * feature_dim, config.dim)

    @property
    def least_frames(self) -> int:
        """Input frames of the shortest utterance that has a loss."""
        return (self.config.num_steps + 1) * self.subsampling

    def forward(
        self, encoder: Encoder, x: torch.Tensor, x_lens: torch.Tensor, generators: Sequence[torch.Generator]
    ) -> torch.Tensor:
        """(B,) losses of features (B, T, F) with (B,) frames: the mean over each one's windows and steps.

        An utterance too short for a full window gets one as long as fits; if none fits, its loss is 0. Each utterance's
        generator decides where windows begin.
        """
        steps, s = self.config.num_steps, self.subsampling
        ahead = steps * s
        owner, begin, length = _windows(x_lens.tolist(), self.width, ahead, s, generators)
        if not owner:
            nothing = torch.stack([0.0 * p.sum() for p in self.parameters()]).sum()  # all parameters take part
            return x.new_zeros(len(x)) + nothing
        rows = torch.tensor(owner, device=x.device)
        first, lens = torch.tensor(begin, device=x.device), torch.tensor(length, device=x.device)
        widest = int(lens.max())
        seen = _cut(x, rows, first, widest) * valid_mask(lens, widest)[..., None]
        encoder_out, encoder_lens = encoder(seen, lens)
        last = encoder_out[torch.arange(len(rows), device=x.device), encoder_lens - 1]
        predicted = self.predict(last).unflatten(-1, (steps, -1))
        target = self.target(_cut(x, rows, first + lens, ahead).reshape(len(rows), steps, -1))
        losses = info_nce(predicted.flatten(0, 1), target.flatten(0, 1), self.config.temperature)
        by_window = losses.view(len(rows), steps).mean(dim=1)
        sums = by_window.new_zeros(len(x)).index_add(0, rows, by_window)
        return sums / torch.bincount(rows, minlength=len(x)).clamp(min=1)


def _windows(
    lens: Sequence[int], width: int, ahead: int, s: int, generators: Sequence[torch.Generator]
) -> tuple[list[int], list[int], list[int]]:
    """Each window's utterance, start and frames; a random part of the remainder is skipped at the beginning."""
    owner, begin, length = [], [], []
    for b, (frames, generator) in enumerate(zip(lens, generators, strict=True)):
        room = frames - ahead
        own = min(width, room // s * s)
        if own < s:
            continue
        number = max(1, room // own) if own == width else 1
        offset = int(torch.randint(room - number * own + 1, (), generator=generator))
        owner += [b] * number
        begin += [offset + n * own for n in range(number)]
        length += [own] * number
    return owner, begin, length


def _cut(x: torch.Tensor, rows: torch.Tensor, first: torch.Tensor, width: int) -> torch.Tensor:
    """(W, width, F) stretches of (B, T, F) that begin at (W,) frames of the (W,) rows."""
    x = F.pad(x, (0, 0, 0, width))
    return x[rows[:, None], first[:, None] + torch.arange(width, device=x.device)]


def unsupervised_objective(
    config: Config, encoder: Encoder, feature_dim: int, speech: Iterable[torch.Tensor]
) -> BestRqObjective | CpcObjective:
    """The unsupervised loss that ``bl_just.loss`` names.

    Args:
        config: the experiment.
        encoder: the trained one.
        feature_dim: F of its input.
        speech: see :class:`BestRqObjective`.

    Raises:
        UserError: settings that contradict each other, or an unusable model to align with.
    """
    settings = config.bl_just
    if settings.loss == "cpc":
        return CpcObjective(settings.cpc, encoder, feature_dim)
    teacher: Conformer | None = None
    if path := settings.best_rq.align_from:
        loaded, block = load_recognizer(Path(path)).model.encoder, settings.best_rq.align_block
        if not isinstance(loaded, Conformer) or block > len(loaded.blocks):
            raise UserError(f"bl_just.best_rq.align_from={path} has no block {block}; set bl_just.best_rq.align_block")
        if loaded.subsampling != encoder.subsampling or loaded.feature_dim != feature_dim:
            raise UserError(f"bl_just.best_rq.align_from={path} reads other features, or at another rate")
        teacher = loaded
    return BestRqObjective(settings.best_rq, encoder, feature_dim, config.train.seed, speech, teacher)
