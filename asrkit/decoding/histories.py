"""Label histories of a search, each evaluated once and shared by hypotheses."""

from __future__ import annotations

import torch

from asrkit.decoding.density_ratio import Fusion
from asrkit.models.transducer import Transducer
from asrkit.symbols import BLANK_ID

SPARE_BYTES = 1 << 28
"""Tables are cleared of unreachable rows when they exceed twice the live rows by this many bytes."""
KEY_BYTES = 256
"""Bytes of a row outside the tables."""
STEP_ROWS = 1024
"""Free rows for the histories of one step; a table grows if they do not suffice."""


class Histories:
    """A row for each distinct label history of a batch, shared by its utterances and hypotheses.

    A row holds what depends only on the labels: the predictor's state and its projection for the joiner, and,
    with fusion, the language models' states and their log probabilities of the next label. Row 0 is the empty
    history. A pruned history that returns, as often happens, is looked up, not evaluated again.

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
        """Keys of the last rows, which are evaluated together when any is read."""
        self.size = 1
        tokens = torch.full((1,), BLANK_ID, device=model.device)
        states = [*model.predictor.initial_state(1)]
        self.fused_from = 1 + len(states)
        """Number of the first table of fusion: the bonus, after the projection and the predictor's states."""
        zeros = torch.zeros(1, model.vocab_size, device=tokens.device)
        total = zeros.new_zeros(1, 2, dtype=torch.float64)
        fusion_tables = [total, zeros, zeros, *fusion.initial_state(1)] if fusion is not None else []
        first = self._evaluate(tokens, torch.zeros_like(tokens), states, fusion_tables)
        self.spare_rows = SPARE_BYTES // (KEY_BYTES + sum(table.numel() * table.element_size() for table in first))
        self.max_rows = max(1, self.spare_rows)
        self.tables = [_with_capacity(table, self._capacity(1)) for table in first]

    @property
    def projection(self) -> torch.Tensor:
        """(rows, J)."""
        return self._evaluated()[0]

    @property
    def bonus(self) -> torch.Tensor:
        """(rows, V) scores of the next symbol by fusion; 0 for blank."""
        return self._evaluated()[self.fused_from]

    def parts(self, rows: torch.Tensor) -> list[dict[str, float]]:
        """The terms of fusion in a score by name, for histories (N,); empty without fusion."""
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
        rows: list[int] = []
        for key in (parents * self.vocab_size + labels).tolist():
            row = self.rows.get(key)
            if row is None:
                row = self.rows[key] = self.size
                self.size += 1
                self.lengths.append(self.lengths[key // self.vocab_size] + 1)
                self.waiting.append(key)
            rows.append(row)
        return torch.tensor(rows, dtype=torch.int64, device=parents.device)

    @property
    def crowded(self) -> bool:
        """Whether to :meth:`clear` the tables."""
        return self.size >= self.max_rows

    def clear(self, rows: torch.Tensor) -> torch.Tensor:
        """Drops histories that no hypothesis can reach.

        A history shorter than every live hypothesis cannot return, as labels are only added.

        Args:
            rows: (N,) of the live hypotheses, at least one.

        Returns:
            New row by old row, -1 if dropped.
        """
        shortest = min(self.lengths[row] for row in rows.tolist())
        kept = [row for row, length in enumerate(self.lengths) if length >= shortest or row == 0]
        new_row = torch.full((self.size,), -1, dtype=torch.int64)
        new_row[kept] = torch.arange(len(kept))
        new_rows = new_row.tolist()
        index = torch.tensor(kept, device=rows.device)
        self.lengths = [self.lengths[row] for row in kept]
        pairs = ((*divmod(key, self.vocab_size), row) for key, row in self.rows.items())
        self.rows = {
            new_rows[parent] * self.vocab_size + label: new_rows[row]
            for parent, label, row in pairs
            if new_rows[parent] >= 0 <= new_rows[row]
        }
        self._evaluated()
        self.size, self.max_rows = len(kept), 2 * len(kept) + self.spare_rows
        for n, table in enumerate(self.tables):  # one by one, to save memory
            self.tables[n] = _with_capacity(table[index], self._capacity(len(kept)))
        return new_row.to(rows.device)

    def _capacity(self, rows: int) -> int:
        """Capacity of tables with this many rows; on a CPU, unwritten memory costs nothing."""
        on_cpu = self.model.device.type == "cpu"
        return self.max_rows + STEP_ROWS if on_cpu else min(self.max_rows, 2 * rows) + STEP_ROWS

    def _evaluated(self) -> list[torch.Tensor]:
        """The tables with all rows evaluated."""
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
        states, fusion_tables = self.tables[1 : self.fused_from], self.tables[self.fused_from + 1 :]
        new_rows = self._evaluate(tokens, parents, states, fusion_tables)
        end = first + len(keys)
        if end > self.tables[0].shape[0]:
            self.tables = [_with_capacity(table, 2 * end) for table in self.tables]
        for table, values in zip(self.tables, new_rows, strict=True):
            table[first:end] = values

    def _evaluate(
        self, tokens: torch.Tensor, parents: torch.Tensor, states: list[torch.Tensor], fusion_tables: list[torch.Tensor]
    ) -> list[torch.Tensor]:
        """The rows of histories that end with ``tokens`` (N,) and follow the rows ``parents`` (N,) of the tables."""
        out, after = self.model.predictor.step(tokens, tuple(state.index_select(0, parents) for state in states))
        rows = [self.model.joiner.predictor_proj(out), *after]
        if self.fusion is None:
            return rows
        total, *log_probs = fusion_tables[:3]
        total = total[parents] + torch.stack([table[parents, tokens].double() for table in log_probs], dim=1)
        distinct, before = parents.unique(return_inverse=True)
        lm_states = [state.index_select(0, distinct) for state in fusion_tables[3:]]
        source, target, lm_after = self.fusion.step(self.model, rows[0], tokens, lm_states, before)
        bonus = self.fusion.weights.bonus(source, target, torch.ones_like(target))
        bonus[:, BLANK_ID] = 0.0
        return [*rows, bonus, total, source, target, *lm_after]


def _with_capacity(rows: torch.Tensor, capacity: int) -> torch.Tensor:
    """A table of ``capacity`` rows that begins with ``rows``."""
    table = rows.new_empty(capacity, *rows.shape[1:])
    table[: len(rows)] = rows
    return table
