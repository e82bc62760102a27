"""Language models over the recognizer's symbols.

A text line y_1 … y_U is read as <s> y_1 … y_U </s>; both marks are symbol 0, which is blank elsewhere. The
sizes stated by Saon et al. 2021 (arXiv 2103.09935), 5 to 84 M, match an LSTM with an embedding as wide as its state,
upper layers that see the embedding and the layer below, and a bottleneck before the output.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import nn
from torch.nn import functional as F

from asrkit.models.dropout import Dropout
from asrkit.models.lstm import LstmLayer
from asrkit.models.tanh import tanh_
from asrkit.symbols import BOUNDARY_ID

State = tuple[torch.Tensor, ...]


class LstmLanguageModel(nn.Module):
    """LSTM layers with a skip from the embedding and a bottleneck before the output.

    Args:
        vocab_size: V, including the boundary.
        hidden_dim: width of the embedding and of each layer.
        num_layers: LSTM layers.
        bottleneck_dim: width before the output.
        dropout: on the embedding and on each layer's output.
    """

    def __init__(
        self, vocab_size: int, hidden_dim: int, num_layers: int, bottleneck_dim: int, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.vocab_size, self.hidden_dim = vocab_size, hidden_dim
        self.embedding = nn.Embedding(vocab_size, hidden_dim)
        widths = [hidden_dim] + [2 * hidden_dim] * (num_layers - 1)
        self.layers = nn.ModuleList(LstmLayer(width, hidden_dim) for width in widths)
        self.bottleneck = nn.Linear(hidden_dim, bottleneck_dim)
        self.out = nn.Linear(bottleneck_dim, vocab_size)
        self.dropout = Dropout(dropout)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Log probabilities (B, U + 1, V) of each next symbol; tokens (B, U), padded with anything."""
        embedded = x = self.dropout(self.embedding(F.pad(tokens, (1, 0), value=BOUNDARY_ID)))
        for n, layer in enumerate(self.lstms()):
            read = x if n == 0 else torch.cat([x, embedded], dim=-1)
            x = self.dropout(layer.run(read.transpose(0, 1))[0].transpose(0, 1))
        return self.log_probs(x)

    def lstms(self) -> list[LstmLayer]:
        """The layers in order."""
        return cast(list[LstmLayer], list(self.layers))

    def log_probs(self, x: torch.Tensor) -> torch.Tensor:
        """The last layer's output (..., hidden) to log probabilities (..., V)."""
        logits = self.out(self.bottleneck(x))
        return torch.log_softmax(logits.to(torch.promote_types(logits.dtype, torch.float32)), dim=-1)


class LstmSteps:
    """An LSTM language model one symbol at a time, for searches; no gradient, and weights fixed at construction.

    A symbol's contribution to a layer's gates is looked up, so a step is one product for the first layer and two for
    the others; bottleneck and output are one product. At least float32, as bf16 would round the gates too much.
    """

    def __init__(self, model: LstmLanguageModel) -> None:
        embedding = model.embedding.weight
        self.width = model.hidden_dim
        self.weights: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
        """A layer's table (V, 4 · hidden), and its weights (hidden, 4 · hidden) for its state and the layer below."""
        for layer in model.lstms():
            from_input, from_state = layer.weight_ih.detach(), layer.weight_hh.detach()
            bias, state_bias = layer.bias_ih.detach(), layer.bias_hh.detach()
            # The embedding is the last part of a layer's input, and the complete input of the first layer.
            table = F.linear(embedding.detach(), from_input[:, -self.width :], bias + state_bias)
            # Doubles the cell's input, so that one sigmoid serves all gates: tanh x = 2 σ(2x) - 1.
            scale = torch.ones_like(bias)
            scale[2 * self.width : 3 * self.width] = 2
            self.weights.append((table * scale, from_state.t() * scale, from_input[:, : -self.width].t() * scale))
        self.num_states = 2 * len(self.weights)
        bottleneck, out = model.bottleneck, model.out
        self.out = (out.weight @ bottleneck.weight).detach(), F.linear(bottleneck.bias, out.weight, out.bias).detach()

    def initial_state(self, number: int) -> State:
        """Before the line begins: h and c of each layer, (N, hidden)."""
        return tuple(self.weights[0][0].new_zeros(number, self.width) for _ in range(self.num_states))

    @torch.no_grad()
    def step(self, tokens: torch.Tensor, state: State, before: torch.Tensor) -> tuple[torch.Tensor, State]:
        """Reads one more symbol, the boundary first.

        Args:
            tokens: (N,).
            state: (M, hidden) each.
            before: (N,) number of the state, of M, that each symbol follows; a state is multiplied once.

        Returns:
            Log probabilities (N, V) of the next symbol, and the state (N, hidden) each.
        """
        x = self.weights[0][0].new_empty(len(tokens), 0)
        after: list[torch.Tensor] = []
        for n, (table, from_state, from_below) in enumerate(self.weights):
            h, c = state[2 * n], F.embedding(before, state[2 * n + 1])
            gates = F.embedding(tokens, table).add_(F.embedding(before, h @ from_state)).addmm_(x, from_below)
            input, forget, cell, out = gates.sigmoid_().chunk(4, dim=1)
            c = torch.addcmul(forget * c, input, cell, value=2).sub_(input)
            x = tanh_(c.clone()).mul_(out)
            after += [x, c]
        return torch.log_softmax(F.linear(x, *self.out), dim=-1), tuple(after)


class LayerSteps:
    """An LSTM language model one symbol at a time, for layers of other types than :class:`LstmLayer`.

    Args:
        model: the language model.
    """

    def __init__(self, model: LstmLanguageModel) -> None:
        self.model = model
        self.num_states = 2 * len(model.layers)

    def initial_state(self, number: int) -> State:
        """Before the line begins: h and c of each layer, (N, hidden)."""
        return tuple(part for layer in self.model.lstms() for part in layer.initial_state(number))

    @torch.no_grad()
    def step(self, tokens: torch.Tensor, state: State, before: torch.Tensor) -> tuple[torch.Tensor, State]:
        """Reads one more symbol, see :meth:`LstmSteps.step`."""
        embedded = x = self.model.embedding(tokens)
        after: list[torch.Tensor] = []
        for n, layer in enumerate(self.model.lstms()):
            layer_state = F.embedding(before, state[2 * n]), F.embedding(before, state[2 * n + 1])
            x, (h, c) = layer.step(x if n == 0 else torch.cat([x, embedded], dim=-1), layer_state)
            after += [h, c]
        return self.model.log_probs(x), tuple(after)


def steps_of(model: LstmLanguageModel) -> LstmSteps | LayerSteps:
    """The fastest implementation of the model that reads one symbol at a time."""
    plain = all(type(layer) is LstmLayer for layer in model.layers)
    plain = plain and type(model.bottleneck) is nn.Linear and type(model.out) is nn.Linear
    return LstmSteps(model) if plain else LayerSteps(model)


class TransformerLanguageModel(nn.Module):
    """Pre-norm causal transformer with learned positions, for rescoring.

    Args:
        vocab_size: V, including the boundary.
        d_model: width.
        num_layers: blocks.
        num_heads: heads.
        max_length: symbols of the longest line.
        dropout: of all layers.
    """

    def __init__(
        self, vocab_size: int, d_model: int, num_layers: int, num_heads: int, max_length: int, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.vocab_size, self.max_length = vocab_size, max_length
        self.embedding = nn.Embedding(vocab_size, d_model)
        self.positions = nn.Embedding(max_length, d_model)
        block = nn.TransformerEncoderLayer(
            d_model, num_heads, 4 * d_model, dropout, activation="gelu", batch_first=True, norm_first=True
        )
        self.blocks = nn.TransformerEncoder(block, num_layers, nn.LayerNorm(d_model), enable_nested_tensor=False)
        self.out = nn.Linear(d_model, vocab_size, bias=False)
        self.out.weight = self.embedding.weight
        nn.init.normal_(self.embedding.weight, std=d_model**-0.5)
        nn.init.normal_(self.positions.weight, std=d_model**-0.5)
        self.dropout = Dropout(dropout)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Log probabilities (B, U + 1, V) of each next symbol; tokens (B, U), padded with anything.

        Raises:
            ValueError: a line is longer than ``max_length`` - 1.
        """
        history = F.pad(tokens, (1, 0), value=BOUNDARY_ID)
        length = history.shape[1]
        if length > self.max_length:
            raise ValueError(f"a line of {length - 1} symbols; the model reads up to {self.max_length - 1}")
        x = self.dropout(self.embedding(history) + self.positions.weight[:length])
        mask = nn.Transformer.generate_square_subsequent_mask(length, device=x.device, dtype=x.dtype)
        logits = self.out(self.blocks(x, mask=mask, is_causal=True))
        return torch.log_softmax(logits.to(torch.promote_types(logits.dtype, torch.float32)), dim=-1)


LanguageModel = LstmLanguageModel | TransformerLanguageModel


def line_log_probs(
    model: LanguageModel, tokens: torch.Tensor, token_lens: torch.Tensor, with_end: bool
) -> torch.Tensor:
    """log p of complete lines.

    Args:
        model: a language model.
        tokens: (B, U), padded.
        token_lens: (B,).
        with_end: whether the end of the line counts, as in perplexity; a search's label scores exclude it.

    Returns:
        (B,).
    """
    log_probs = model(tokens)  # (B, U + 1, V)
    u = torch.arange(log_probs.shape[1], device=tokens.device)
    targets = F.pad(tokens, (0, 1)).masked_fill(u >= token_lens[:, None], BOUNDARY_ID)
    picked = log_probs.gather(2, targets[:, :, None])[:, :, 0]
    result: torch.Tensor = picked.masked_fill(u >= (token_lens + int(with_end))[:, None], 0.0).sum(1)
    return result
