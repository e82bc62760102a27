"""BEST-RQ: masked prediction of labels by a random-projection quantizer (Chiu et al. 2022, arXiv 2202.01855).

A frame's label is the codebook vector nearest to a random projection of it, both scaled to length 1; neither projection
nor codebook is trained. Spans of the input are replaced by noise, and the encoder has to tell the labels there.
"""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional as F

from asrkit.masking import valid_mask


class RandomProjectionQuantizer(nn.Module):
    """Labels of frames: argmin_i ‖norm(c_i) − norm(A x)‖ for each codebook (section 3.1).

    Args:
        input_dim: I.
        codebook_size: labels of a codebook.
        codebook_dim: d.
        num_codebooks: C.
        generator: of the projection, Xavier's, and the codebooks, normal.
        projection: (I, d) in place of a random one, see :func:`pca_projection`.
    """

    def __init__(
        self,
        input_dim: int,
        *,
        codebook_size: int,
        codebook_dim: int,
        num_codebooks: int,
        generator: torch.Generator,
        projection: torch.Tensor | None = None,
    ) -> None:
        super().__init__()
        bound = math.sqrt(6 / (input_dim + codebook_dim))
        drawn = (2 * torch.rand(input_dim, codebook_dim, generator=generator) - 1) * bound
        codebooks = torch.randn(num_codebooks, codebook_size, codebook_dim, generator=generator)
        self.projection = nn.Buffer(drawn if projection is None else projection)
        self.codebooks = nn.Buffer(F.normalize(codebooks, dim=-1))

    @torch.no_grad()
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(…, I) frames to (…, C) labels."""
        # Of vectors of length 1, the nearest has the largest product; the length of A x changes no order.
        with torch.autocast(x.device.type, enabled=False):  # labels must not depend on the precision of training
            similarity = torch.einsum("...d,cvd->...cv", x.float() @ self.projection, self.codebooks)
        labels: torch.Tensor = similarity.argmax(dim=-1)
        return labels


def pca_projection(x: torch.Tensor, dim: int) -> torch.Tensor:
    """(I, dim) projection onto the directions of largest variance, each scaled to variance 1 (arXiv 2606.30671).

    Args:
        x: (N, I) frames.
        dim: d, at most I.

    Raises:
        ValueError: fewer than ``dim`` directions.
    """
    x = x.double() - x.double().mean(0)
    variance, directions = torch.linalg.eigh(x.T @ x / max(1, len(x) - 1))
    if dim > x.shape[1] or variance[-dim] <= 0:
        raise ValueError(f"the frames do not vary in {dim} directions")
    projection: torch.Tensor = (directions[:, -dim:] / variance[-dim:].sqrt()).flip(1).float()
    return projection


def stack_for_encoder(features: torch.Tensor, subsampling: int, frames: int) -> torch.Tensor:
    """(B, T, F) features to (B, T', s·F): those that each of T' = ``frames`` encoder frames covers."""
    features = F.pad(features[:, : frames * subsampling], (0, 0, 0, max(0, frames * subsampling - features.shape[1])))
    return features.reshape(len(features), frames, -1)


def draw_mask(
    lens: torch.Tensor, frames: int, probability: float, span: int, generator: torch.Generator | None = None
) -> torch.Tensor:
    """(B, T) which frames are masked: a span begins at each frame with a probability, and spans may overlap.

    A share of 1 − (1 − probability)^span of the frames is masked.

    Args:
        lens: (B,) real frames; none of the others is masked.
        frames: T.
        probability: of a start (0.01 in the paper with spans of 400 ms; 0.02 and 20 frames in arXiv 2412.08548).
        span: frames masked from a start on.
        generator: on the CPU; torch's own if None.
    """
    # As many starts before the first frame as may reach into the utterance, so that all frames are masked alike.
    starts = torch.rand(len(lens), frames + span - 1, generator=generator) < probability
    covered = F.max_pool1d(starts.float()[:, None], span, stride=1)[:, 0] > 0
    return covered.to(lens.device) & valid_mask(lens, frames)


def mask_with_noise(features: torch.Tensor, masked: torch.Tensor, noise_std: float) -> torch.Tensor:
    """(B, T, F) features with normal noise in place of the masked frames (B, T)."""
    noise = torch.randn(features.shape, dtype=features.dtype) * noise_std
    return torch.where(masked[..., None], noise.to(features.device), features)


def masked_frames(masked: torch.Tensor, subsampling: int, frames: int) -> torch.Tensor:
    """(B, T) mask of the input to (B, T') encoder frames, all of whose input is masked."""
    padded = F.pad(masked[:, : frames * subsampling], (0, max(0, frames * subsampling - masked.shape[1])))
    whole: torch.Tensor = padded.reshape(len(masked), frames, subsampling).all(dim=-1)
    return whole


def masked_cross_entropy(logits: torch.Tensor, labels: torch.Tensor, masked: torch.Tensor) -> torch.Tensor:
    """(B,) mean cross-entropy over the masked frames and the codebooks of each utterance; 0 where none is masked.

    Args:
        logits: (B, T', C, V).
        labels: (B, T', C).
        masked: (B, T').
    """
    exact = logits.to(torch.promote_types(logits.dtype, torch.float32))
    losses = F.cross_entropy(exact.movedim(-1, 1), labels, reduction="none").mean(dim=-1)  # (B, T')
    means: torch.Tensor = (losses * masked).sum(dim=1) / masked.sum(dim=1).clamp(min=1)
    return means
