"""Encoder frames of a batch on their way into a search, as the joiner takes them."""

from __future__ import annotations

import torch

from asrkit.models.transducer import Transducer

ENDLESS = 1 << 40
"""Frames of an utterance whose last have not come yet."""


class Frames:
    """The projected frames of B utterances, which may come in pieces.

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
        """Whether the last have come."""

    @property
    def ends(self) -> torch.Tensor:
        """(B,) frames of each utterance, :data:`ENDLESS` where that is not known yet."""
        return self.received if self.ended else torch.full_like(self.received, ENDLESS)

    def add(self, encoder_out: torch.Tensor, encoder_lens: torch.Tensor, last: bool) -> None:
        """Appends frames (B, n, D), of which (B,) are real.

        Raises:
            ValueError: the last frames have come before.
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
        """Drops the frames before one, which no search looks at any more."""
        if before > self.first:
            self.projection = self.projection[:, before - self.first :].clone()
            self.first = before

    def rows(self, utterance: torch.Tensor, frame: torch.Tensor) -> torch.Tensor:
        """Where the frames (N, ...) of utterances (N,) are among all of (B · T'); unused places stand anywhere."""
        times = self.projection.shape[1]
        return utterance[:, None] * times + (frame - self.first).clamp(0, max(0, times - 1))
