"""An LSTM language model computed with codes, one symbol at a time, for fusion in a search."""

from __future__ import annotations

from typing import cast

import torch
from torch.nn import functional as F

from asrkit.models.language_model import LstmLanguageModel, State
from asrkit.quantization.integer import IntegerLstmLayer, cells


class IntegerSteps:
    """Like :class:`asrkit.models.language_model.LstmSteps`: a symbol's contribution to a layer's gates is looked up.

    Args:
        model: a language model whose LSTM layers are all :class:`IntegerLstmLayer`.
    """

    def __init__(self, model: LstmLanguageModel) -> None:
        self.model, self.width = model, model.hidden_dim
        self.layers = cast(list[IntegerLstmLayer], list(model.layers))
        embedding = model.embedding.weight.detach()
        # The embedding is the last part of a layer's input, and the complete input of the first layer.
        self.tables = [layer.inputs[-1](embedding) for layer in self.layers]
        self.num_states = 2 * len(self.layers)

    def initial_state(self, number: int) -> State:
        """Before the line begins: h and c of each layer, (N, hidden)."""
        return tuple(part for layer in self.layers for part in layer.initial_state(number))

    @torch.no_grad()
    def step(self, tokens: torch.Tensor, state: State, before: torch.Tensor) -> tuple[torch.Tensor, State]:
        """Reads one more symbol, see :meth:`asrkit.models.language_model.LstmSteps.step`."""
        x = torch.empty(0)
        after: list[torch.Tensor] = []
        for n, (layer, table) in enumerate(zip(self.layers, self.tables, strict=True)):
            h, c = state[2 * n], F.embedding(before, state[2 * n + 1])
            gates = F.embedding(tokens, table)
            if len(layer.inputs) > 1:
                layer.inputs[0](x, gates)
            if len(h) <= len(before):  # several symbols may follow one state, whose product is computed once
                gates += F.embedding(before, layer.hidden(h))
            else:
                layer.hidden(F.embedding(before, h), gates)
            x, c = cells(gates, c)
            after += [x, c]
        return self.model.log_probs(x), tuple(after)


def has_integer_layers(model: LstmLanguageModel) -> bool:
    """Whether every LSTM layer computes with codes."""
    return all(isinstance(layer, IntegerLstmLayer) for layer in model.layers)
