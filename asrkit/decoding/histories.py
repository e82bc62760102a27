"""Label histories of a search: each distinct one is evaluated once, whichever hypotheses share it."""

from __future__ import annotations

import torch

from asrkit.decoding.density_ratio import Fusion
from asrkit.models.transducer import Transducer
from asrkit.symbols import BLANK_ID

ROOM = 1 << 28
"""Bytes of rows, beyond twice the live ones, before the tables are cleared of rows that no search can reach."""
KEY = 256
"""Bytes of a row outside the tables."""
SPARE = 1024
"""Room for one step's new rows; a table without it grows."""


class Histories:
    """A row for each distinct label history of a batch, shared by its utterances and hypotheses.

    A row holds what depends only on the labels: the predictor's state and its projection for the joiner, and,
    with fusion, the language models' states and their log probabilities of the next label. Row 0 is the empty
    history. A history that is pruned and found again, as happens frame after frame, is looked up, not
    evaluated again.

    Args:
        model: the transducer.
        fusion: language models, or None.
    """

    def __init__(self, model: Transducer, fusion: Fusion | None = None) -> None:
        self.model, self.fusion = model, fusion
        self.vocab_size = model.vocab_size
        self.rows: dict[int, int] = {}  # row of the history without its last label · V + label, to row
        self.lengths: list[int] = [0]
        self.waiting: list[int] = []
        """Keys of the last rows, which are evaluated together once any is read."""
        self.size = 1
        tokens = torch.full((1,), BLANK_ID, device=model.device)
        states = [*model.predictor.initial_state(1)]
        self.fused_from = 1 + len(states)
        """The tables: the projection, states of the predictor, and from here on the bonus and its inputs."""
        nothing = torch.zeros(1, model.vocab_size, device=tokens.device)
        total = nothing.new_zeros(1, 2, dtype=torch.float64)
        of_models = [total, nothing, nothing, *fusion.initial_state(1)] if fusion is not None else []
        first = self._evaluate(tokens, torch.zeros_like(tokens), states, of_models)
        self.spare = ROOM // (KEY + sum(table.numel() * table.element_size() for table in first))
        self.room = max(1, self.spare)
        self.tables = [_roomy(table, self._capacity(1)) for table in first]

    @property
    def projection(self) -> torch.Tensor:
        """(rows, J)."""
        return self._evaluated()[0]

    @property
    def bonus(self) -> torch.Tensor:
        """(rows, V) what fusion adds to the next symbol's score: nothing to blank's."""
        return self._evaluated()[self.fused_from]

    def parts(self, rows: torch.Tensor) -> list[dict[str, float]]:
        """The terms of fusion's part of a score by name, for histories (N,); nothing without fusion."""
        if self.fusion is None:
            return [{} for _ in rows]
        totals = self._evaluated()[self.fused_from + 1][rows].tolist()
        lengths = (float(self.lengths[row]) for row in rows.tolist())
        return [
            {"source_lm": source, "target_lm": target, "length": length}
            for (source, target), length in zip(totals, lengths, strict=True)
        ]

    def extend(self, parents: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Rows (N,) of the histories ``parents`` (N,) with one more label (N,) each."""
        found: list[int] = []
        for key in (parents * self.vocab_size + labels).tolist():
            row = self.rows.get(key)
            if row is None:
                row = self.rows[key] = self.size
                self.size += 1
                self.lengths.append(self.lengths[key // self.vocab_size] + 1)
                self.waiting.append(key)
            found.append(row)
        return torch.tensor(found, dtype=torch.int64, device=parents.device)

    @property
    def crowded(self) -> bool:
        """Whether it is time to :meth:`clear` the table."""
        return self.size >= self.room

    def clear(self, rows: torch.Tensor) -> torch.Tensor:
        """Drops histories that no hypothesis can reach.

        A history shorter than every live hypothesis is never seen again: labels are only added.

        Args:
            rows: (N,) of the live hypotheses, at least one.

        Returns:
            New row by old row, -1 where dropped.
        """
        shortest = min(self.lengths[row] for row in rows.tolist())
        kept = [row for row, length in enumerate(self.lengths) if length >= shortest or row == 0]
        place = torch.full((self.size,), -1, dtype=torch.int64)
        place[kept] = torch.arange(len(kept))
        moved = place.tolist()
        index = torch.tensor(kept, device=rows.device)
        self.lengths = [self.lengths[row] for row in kept]
        pairs = ((*divmod(key, self.vocab_size), row) for key, row in self.rows.items())
        self.rows = {
            moved[parent] * self.vocab_size + label: moved[row]
            for parent, label, row in pairs
            if moved[parent] >= 0 <= moved[row]
        }
        self._evaluated()
        self.size, self.room = len(kept), 2 * len(kept) + self.spare
        for n, table in enumerate(self.tables):  # one by one, so that they are never all in memory twice
            self.tables[n] = _roomy(table[index], self._capacity(len(kept)))
        return place.to(rows.device)

    def _capacity(self, rows: int) -> int:
        """Capacity of tables that hold this many rows; on a CPU, memory not yet written to costs nothing."""
        on_cpu = self.model.device.type == "cpu"
        return self.room + SPARE if on_cpu else min(self.room, 2 * rows) + SPARE

    def _evaluated(self) -> list[torch.Tensor]:
        """The tables, with all rows in them."""
        while self.waiting:
            first = self.size - len(self.waiting)
            parents = (key // self.vocab_size for key in self.waiting)
            ready = next((n for n, parent in enumerate(parents) if parent >= first), len(self.waiting))
            self._add(first, self.waiting[:ready])
            self.waiting = self.waiting[ready:]
        return self.tables

    def _add(self, first: int, keys: list[int]) -> None:
        key = torch.tensor(keys, device=self.tables[0].device)
        parents, tokens = key // self.vocab_size, key % self.vocab_size
        states, of_models = self.tables[1 : self.fused_from], self.tables[self.fused_from + 1 :]
        made = self._evaluate(tokens, parents, states, of_models)
        end = first + len(keys)
        if end > self.tables[0].shape[0]:
            self.tables = [_roomy(table, 2 * end) for table in self.tables]
        for table, values in zip(self.tables, made, strict=True):
            table[first:end] = values

    def _evaluate(
        self, tokens: torch.Tensor, parents: torch.Tensor, states: list[torch.Tensor], of_models: list[torch.Tensor]
    ) -> list[torch.Tensor]:
        """The rows of histories that end with ``tokens`` (N,) and follow the rows ``parents`` (N,) of the tables."""
        out, after = self.model.predictor.step(tokens, tuple(state.index_select(0, parents) for state in states))
        made = [self.model.joiner.predictor_proj(out), *after]
        if self.fusion is None:
            return made
        total, *log_probs = of_models[:3]
        total = total[parents] + torch.stack([table[parents, tokens].double() for table in log_probs], dim=1)
        distinct, before = parents.unique(return_inverse=True)
        lm_states = [state.index_select(0, distinct) for state in of_models[3:]]
        source, target, lm_after = self.fusion.step(self.model, made[0], tokens, lm_states, before)
        bonus = self.fusion.weights.bonus(source, target, torch.ones_like(target))
        bonus[:, BLANK_ID] = 0.0
        return [*made, bonus, total, source, target, *lm_after]


def _roomy(rows: torch.Tensor, capacity: int) -> torch.Tensor:
    """A table that begins with ``rows``."""
    table = rows.new_empty(capacity, *rows.shape[1:])
    table[: len(rows)] = rows
    return table
