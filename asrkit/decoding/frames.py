"""Encoder frames of a batch, projected for the joiner, for a search."""

from __future__ import annotations

import torch

from asrkit.models.transducer import Transducer

ENDLESS = 1 << 40
"""Frame count of an utterance whose last frames have not arrived."""


class Frames:
    """The projected frames of B utterances, which may arrive in pieces.

    Args:
        model: whose joiner projects them.
        batch: B.
    """

    def __init__(self, model: Transducer, batch: int) -> None:
        self.model = model
        self.projection = torch.empty(0)
        """(B, T', J) so far, from frame ``first`` on."""
        self.first = 0
        self.received = torch.zeros(batch, dtype=torch.int64, device=model.device)
        """(B,) frames so far."""
        self.ended = False
        """Whether the last frames have arrived."""

    @property
    def ends(self) -> torch.Tensor:
        """(B,) frames of each utterance, :data:`ENDLESS` until they are known."""
        return self.received if self.ended else torch.full_like(self.received, ENDLESS)

    def add(self, encoder_out: torch.Tensor, encoder_lens: torch.Tensor, last: bool) -> None:
        """Appends frames (B, n, D), of which (B,) are real.

        Raises:
            ValueError: the last frames were already added.
        """
        if self.ended:
            raise ValueError("the search has had its last frames; start another one")
        new = self.model.joiner.encoder_proj(encoder_out)  # (B, n, J)
        if self.projection.dim() == 1:
            self.projection, self.received = new, encoder_lens.long()
        elif len(encoder_lens):
            received = self.received + encoder_lens
            projection = new.new_zeros(len(new), int(received.max()) - self.first, new.shape[2])
            projection[:, : self.projection.shape[1]] = self.projection[:, : projection.shape[1]]
            for b, (first, end) in enumerate(zip(self.received.tolist(), received.tolist(), strict=True)):
                projection[b, first - self.first : end - self.first] = new[b, : end - first]
            self.projection, self.received = projection, received
        self.ended = last

    def forget(self, before: int) -> None:
        """Drops frames that the search does not need any more."""
        if before > self.first:
            self.projection = self.projection[:, before - self.first :].clone()
            self.first = before

    def rows(self, utterance: torch.Tensor, frame: torch.Tensor) -> torch.Tensor:
        """Indices of the frames (N, ...) of utterances (N,) among all (B · T'); arbitrary for unused places."""
        times = self.projection.shape[1]
        return utterance[:, None] * times + (frame - self.first).clamp(0, max(0, times - 1))
