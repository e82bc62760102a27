"""Label histories of a search: each distinct one is evaluated once, whatever hypothesis it belongs to."""

from __future__ import annotations

import torch

from asrkit.decoding.density_ratio import Fusion
from asrkit.models.transducer import Transducer

BLANK_ID = 0
ROOM = 4096
"""Rows beyond the live ones before a table is cleared of what no search can come back to."""
SPARE = 1024
"""Room for one step's new rows; a table without it grows."""


class Histories:
    """A row for each distinct label history of a batch, shared by its utterances and hypotheses.

    A row holds what depends on the labels alone: the predictor's state and its projection for the joiner, and,
    with fusion, the language models' states and their log probabilities of the next label. Row 0 is the empty
    history. A history that is pruned and found again, as happens frame after frame, is looked up and not
    evaluated again.

    Args:
        model: the transducer.
        fusion: language models, or None.
    """

    def __init__(self, model: Transducer, fusion: Fusion | None = None) -> None:
        self.model, self.fusion = model, fusion
        self.rows: dict[tuple[int, int], int] = {}  # (row of the history without its last label, label) to row
        self.lengths: list[int] = [0]
        self.size, self.room = 1, ROOM
        tokens = torch.full((1,), BLANK_ID, device=model.joiner.out.weight.device)
        states = [*model.predictor.initial_state(1)]
        self.predictor_states = len(states)
        if fusion is not None:
            states += fusion.initial_state(1)
        self.tables = [_roomy(table, self.room + SPARE) for table in self._evaluate(tokens, states)]

    @property
    def projection(self) -> torch.Tensor:
        """(rows, J)."""
        return self.tables[0]

    @property
    def source(self) -> torch.Tensor:
        """(rows, V) log probabilities of the next label by the source language model."""
        return self.tables[1]

    @property
    def target(self) -> torch.Tensor:
        """(rows, V) log probabilities of the next label by the external language model."""
        return self.tables[2]

    def extend(self, parents: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Rows (N,) of the histories ``parents`` (N,) with one more label (N,) each."""
        found: list[int] = []
        new: list[tuple[int, int]] = []
        for key in zip(parents.tolist(), labels.tolist(), strict=True):
            row = self.rows.get(key)
            if row is None:
                row = self.rows[key] = self.size + len(new)
                new.append(key)
            found.append(row)
        if new:
            self._add(new)
        return torch.tensor(found, dtype=torch.int64, device=parents.device)

    def walk(self, tokens: torch.Tensor, token_lens: torch.Tensor) -> torch.Tensor:
        """Rows (N, U + 1) of the histories in label sequences (N, U) of (N,) labels, 0 in the padding."""
        rows = tokens.new_zeros(len(tokens), tokens.shape[1] + 1)
        for u in range(tokens.shape[1]):
            there = u < token_lens
            rows[there, u + 1] = self.extend(rows[there, u], tokens[there, u])
        return rows

    def lm_scores(
        self, rows: torch.Tensor, tokens: torch.Tensor, token_lens: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """log p (N,) of whole label sequences by source and external language model; arguments as of :meth:`walk`."""
        if self.fusion is None:
            return (torch.zeros(len(tokens), device=tokens.device),) * 2
        padding = torch.arange(tokens.shape[1], device=tokens.device) >= token_lens[:, None]
        source, target = (
            table[rows[:, :-1], tokens].masked_fill(padding, 0.0).sum(1) for table in (self.source, self.target)
        )
        return source, target

    def clear(self, rows: torch.Tensor) -> torch.Tensor | None:
        """Drops what no hypothesis can come back to, once there is enough of it.

        A history shorter than every live hypothesis is never seen again: labels are only added.

        Args:
            rows: (N,) of the live hypotheses.

        Returns:
            New row by old row, -1 where dropped; None if nothing was done.
        """
        if self.size < self.room:
            return None
        shortest = min(self.lengths[row] for row in rows.tolist())
        kept = [row for row, length in enumerate(self.lengths) if length >= shortest or row == 0]
        place = torch.full((self.size,), -1, dtype=torch.int64)
        place[kept] = torch.arange(len(kept))
        moved = place.tolist()
        index = torch.tensor(kept, device=rows.device)
        self.lengths = [self.lengths[row] for row in kept]
        self.rows = {
            (moved[p], label): moved[row] for (p, label), row in self.rows.items() if moved[p] >= 0 <= moved[row]
        }
        self.size, self.room = len(kept), 2 * len(kept) + ROOM
        for n, table in enumerate(self.tables):  # one by one, so that no two of all are in memory
            self.tables[n] = _roomy(table[index], self.room + SPARE)
        return place.to(rows.device)

    def _add(self, keys: list[tuple[int, int]]) -> None:
        parents = torch.tensor([parent for parent, _ in keys], device=self.projection.device)
        tokens = torch.tensor([label for _, label in keys], device=parents.device)
        first = 3 if self.fusion is not None else 1
        made = self._evaluate(tokens, [table[parents] for table in self.tables[first:]])
        end = self.size + len(keys)
        if end > self.projection.shape[0]:
            self.tables = [_roomy(table, 2 * end) for table in self.tables]
        for table, values in zip(self.tables, made, strict=True):
            table[self.size : end] = values
        self.lengths += [self.lengths[parent] + 1 for parent, _ in keys]
        self.size = end

    def _evaluate(self, tokens: torch.Tensor, states: list[torch.Tensor]) -> list[torch.Tensor]:
        """The rows of histories that end with ``tokens`` (N,), from the states before them."""
        number = self.predictor_states
        out, state = self.model.predictor.step(tokens, tuple(states[:number]))
        projection = self.model.joiner.predictor_proj(out)
        if self.fusion is None:
            return [projection, *state]
        source, target, lm_states = self.fusion.step(self.model, projection, tokens, states[number:])
        return [projection, source, target, *state, *lm_states]


def _roomy(rows: torch.Tensor, capacity: int) -> torch.Tensor:
    """A table that begins with ``rows``; on a CPU, memory that is not written to yet costs nothing."""
    if rows.device.type != "cpu":
        capacity = min(capacity, 2 * len(rows) + SPARE)
    table = rows.new_empty(capacity, *rows.shape[1:])
    table[: len(rows)] = rows
    return table
