"""BEST-RQ: masked prediction of labels by a random-projection quantizer (Chiu et al. 2022, arXiv 2202.01855).

A frame's label is the codebook vector nearest to a random projection of the frame, both scaled to length 1. Projection
and codebook are not trained. Spans of the input are replaced by noise, and the encoder must predict their labels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F


class RandomProjectionQuantizer(nn.Module):
    """Labels of frames: argmin_i ‖norm(c_i) − norm(A x)‖ for each codebook (section 3.1).

    Args:
        input_dim: I.
        codebook_size: labels per codebook.
        codebook_dim: d.
        num_codebooks: C.
        generator: of the projection (Xavier) and the codebooks (normal).
        frames: (N, I) frames whose principal components are the projection, see :func:`pca_projection`; random if
            None.

    Raises:
        ValueError: the frames do not vary in d directions.
    """

    def __init__(
        self,
        input_dim: int,
        *,
        codebook_size: int,
        codebook_dim: int,
        num_codebooks: int,
        generator: torch.Generator,
        frames: torch.Tensor | None = None,
    ) -> None:
        super().__init__()
        bound = math.sqrt(6 / (input_dim + codebook_dim))
        projection = (2 * torch.rand(input_dim, codebook_dim, generator=generator) - 1) * bound
        codebooks = torch.randn(num_codebooks, codebook_size, codebook_dim, generator=generator)
        mean = torch.zeros(input_dim)
        if frames is not None:
            mean, projection = pca_projection(frames, codebook_dim)
        self.mean, self.projection = nn.Buffer(mean), nn.Buffer(projection)
        self.codebooks = nn.Buffer(F.normalize(codebooks, dim=-1))

    @torch.no_grad()
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(…, I) frames to (…, C) labels."""
        # Among unit vectors, the nearest has the largest product; the length of A x does not change the order.
        with torch.autocast(x.device.type, enabled=False):  # labels must not depend on the precision of training
            projected = (x.float() - self.mean) @ self.projection
            similarity = torch.einsum("...d,cvd->...cv", projected, self.codebooks)
        labels: torch.Tensor = similarity.argmax(dim=-1)
        return labels


def pca_projection(x: torch.Tensor, dim: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean (I,) of frames, and the projection (I, dim) onto their directions of largest variance, each scaled to
    variance 1 (arXiv 2606.30671).

    Args:
        x: (N, I) frames.
        dim: d, at most I.

    Raises:
        ValueError: fewer than ``dim`` directions.
    """
    mean = x.double().mean(0)
    centred = x.double() - mean
    variance, directions = torch.linalg.eigh(centred.T @ centred / max(1, len(x) - 1))
    if dim > x.shape[1] or variance[-dim] <= 0:
        raise ValueError(f"the frames do not vary in {dim} directions")
    return mean.float(), (directions[:, -dim:] / variance[-dim:].sqrt()).flip(1).float()


def stack_for_encoder(features: torch.Tensor, subsampling: int, frames: int) -> torch.Tensor:
    """(B, T, F) features to (B, T', s·F): the features of each of T' = ``frames`` encoder frames."""
    features = F.pad(features[:, : frames * subsampling], (0, 0, 0, max(0, frames * subsampling - features.shape[1])))
    return features.reshape(len(features), frames, -1)


def draw_mask(
    lens: torch.Tensor, frames: int, probability: float, span: int, generators: Sequence[torch.Generator]
) -> torch.Tensor:
    """(B, T) mask of frames: a span begins at each frame with the given probability, and spans may overlap.

    A share of 1 − (1 − probability)^span of the frames is masked. An utterance without a span gets one, so that each
    has a loss.

    Args:
        lens: (B,) real frames; padding is not masked.
        frames: T.
        probability: of a start (0.01 in the paper with spans of 400 ms; 0.02 and 20 frames in arXiv 2412.08548).
        span: frames masked from each start.
        generators: one per utterance, on the CPU.
    """
    masked = torch.zeros(len(lens), frames, dtype=torch.bool)
    for row, length, generator in zip(masked, lens.tolist(), generators, strict=True):
        # Spans may start before the first frame, so that all frames are equally likely to be masked.
        starts = torch.rand(1, 1, length + span - 1, generator=generator) < probability
        if length:
            row[:length] = F.max_pool1d(starts.float(), span, stride=1)[0, 0] > 0
            if not row.any():
                first = int(torch.randint(max(1, length - span + 1), (), generator=generator))
                row[first : min(first + span, length)] = True
    return masked.to(lens.device)


def mask_with_noise(
    features: torch.Tensor, masked: torch.Tensor, noise_std: float, generators: Sequence[torch.Generator]
) -> torch.Tensor:
    """(B, T, F) features whose masked frames (B, T) are replaced by normal noise; one generator per utterance."""
    counts = masked.sum(dim=1).tolist()
    noise = [torch.randn(n, features.shape[2], generator=g) for n, g in zip(counts, generators, strict=True)]
    result = features.clone()
    result[masked] = (torch.cat(noise) * noise_std).to(features)
    return result


def masked_frames(masked: torch.Tensor, subsampling: int, frames: int) -> torch.Tensor:
    """(B, T) input mask to (B, T') mask of the encoder frames whose input is all masked."""
    padded = F.pad(masked[:, : frames * subsampling], (0, max(0, frames * subsampling - masked.shape[1])))
    complete: torch.Tensor = padded.reshape(len(masked), frames, subsampling).all(dim=-1)
    return complete


def masked_cross_entropy(logits: torch.Tensor, labels: torch.Tensor, masked: torch.Tensor) -> torch.Tensor:
    """(B,) mean cross-entropy over the masked frames and the codebooks of each utterance; 0 if none are masked.

    Args:
        logits: (B, T', C, V).
        labels: (B, T', C).
        masked: (B, T').
    """
    exact = logits.to(torch.promote_types(logits.dtype, torch.float32))
    losses = F.cross_entropy(exact.movedim(-1, 1), labels, reduction="none").mean(dim=-1)  # (B, T')
    means: torch.Tensor = (losses * masked).sum(dim=1) / masked.sum(dim=1).clamp(min=1)
    return means


def label_entropies(labels: Sequence[torch.Tensor], size: int) -> tuple[float, float]:
    """Nats of a label by its frequency, and nats of a label given the one before it, each a mean over codebooks.

    Both are cross-entropies of every other utterance under the counts of the rest, the second one smoothed as by
    Witten and Bell (1991). If they are equal, a label does not depend on its neighbour, and there is little to learn.

    Args:
        labels: (T', C) of two utterances or more, with at least two frames each.
        size: V.
    """
    counted, held_out = labels[::2], labels[1::2]
    before = torch.cat([row[:-1] for row in held_out]).T  # (C, N)
    after = torch.cat([row[1:] for row in held_out]).T
    alone, given = [], []
    for c in range(len(before)):
        pairs = torch.zeros(size, size)
        for row in counted:
            pairs.index_put_((row[:-1, c], row[1:, c]), torch.ones(len(row) - 1), accumulate=True)
        frequency = (pairs.sum(dim=0) + 1) / (pairs.sum() + size)
        kinds = (pairs > 0).sum(dim=1, keepdim=True).clamp(min=1)
        following = (pairs + kinds * frequency) / (pairs.sum(dim=1, keepdim=True) + kinds)
        alone.append(-frequency[after[c]].log().mean())
        given.append(-following[before[c], after[c]].log().mean())
    return torch.stack(alone).mean().item(), torch.stack(given).mean().item()
