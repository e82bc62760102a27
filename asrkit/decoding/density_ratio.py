"""Language models in the search: density ratio, shallow fusion, internal language model.

McDermott et al. 2019 (arXiv 2002.11268), in the notation of Saon et al. 2021 (arXiv 2103.09935):

    score(y) = log p(y | x) - μ log p_src(y) + λ log p_ext(y) + ρ |y|

The terms are added with each label; blank adds none and leaves the language models unchanged.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import numpy as np
import torch

from asrkit.models.language_model import LayerSteps, LstmLanguageModel, LstmSteps, line_log_probs, steps_of
from asrkit.models.transducer import Transducer
from asrkit.quantization.integer_steps import IntegerSteps, has_integer_layers

Pair = tuple[torch.Tensor, torch.Tensor]
Value = TypeVar("Value", float, np.ndarray, torch.Tensor)


@dataclass(frozen=True)
class FusionWeights:
    """Weights of the formula above."""

    source: float = 0.0
    """μ."""
    target: float = 0.0
    """λ."""
    length: float = 0.0
    """ρ."""

    def bonus(self, source: Value, target: Value, length: Value) -> Value:
        """The terms that are added to log p(y | x), from log p_src, log p_ext and the number of labels."""
        return self.target * target - self.source * source + self.length * length


@dataclass(frozen=True)
class Fusion:
    """The language models whose scores are added to those of labels.

    Only ``target`` gives shallow fusion. With ``internal`` the source is the transducer's internal language model: the
    joiner with zero as the encoder's output (Variani et al. 2020, arXiv 2003.07705; Meng et al. 2021,
    arXiv 2011.01991), normalized over labels.
    """

    weights: FusionWeights
    target: LstmLanguageModel | None = None
    source: LstmLanguageModel | None = None
    internal: bool = False

    def initial_state(self, number: int) -> list[torch.Tensor]:
        """States of both models before any label, each (N, ...)."""
        return [part for steps in self._steps.values() for part in steps.initial_state(number)]

    def step(
        self,
        transducer: Transducer,
        projection: torch.Tensor,
        tokens: torch.Tensor,
        states: list[torch.Tensor],
        before: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
        """Both models after one more label.

        Args:
            transducer: for its internal language model.
            projection: (N, J) of the predictor after the label.
            tokens: (N,) the labels, blank for the first step.
            states: (M, ...) before a label, in the order of :meth:`initial_state`.
            before: (N,) number of the state that each label follows.

        Returns:
            log p_src and log p_ext of the next label, (N, V) each and 0 if there is no model, and the states.
        """
        zeros = projection.new_zeros(len(tokens), transducer.vocab_size)
        scores = {"source": zeros, "target": zeros}
        after: list[torch.Tensor] = []
        for name, steps in self._steps.items():
            lm_state = tuple(states[len(after) : len(after) + steps.num_states])
            scores[name], state = steps.step(tokens, lm_state, before)
            after += state
        if self.internal:
            scores["source"] = internal_log_probs(transducer, projection)
        return scores["source"], scores["target"], after

    def line_scores(self, transducer: Transducer, tokens: torch.Tensor, token_lens: torch.Tensor) -> Pair:
        """log p_src and log p_ext, (N,) each, of complete label sequences (N, U): the sums over steps."""
        zeros = torch.zeros(len(tokens), dtype=torch.float64, device=tokens.device)
        source, target = (
            zeros if lm is None else line_log_probs(lm, tokens, token_lens, with_end=False)
            for lm in (self.source, self.target)
        )
        if self.internal:
            out = transducer.joiner.predictor_proj(transducer.predictor(tokens))[:, :-1]  # (N, U, J)
            log_probs = internal_log_probs(transducer, out.flatten(0, 1)).view(*tokens.shape, transducer.vocab_size)
            padding = torch.arange(tokens.shape[1], device=tokens.device) >= token_lens[:, None]
            # Padding is blank, whose log probability is -inf here.
            source = log_probs.gather(2, tokens.unsqueeze(2)).squeeze(2).masked_fill(padding, 0.0).sum(1)
        return source, target

    @cached_property
    def _steps(self) -> dict[str, LstmSteps | LayerSteps | IntegerSteps]:
        models = {"source": self.source, "target": self.target}
        return {
            name: IntegerSteps(lm) if has_integer_layers(lm) else steps_of(lm)
            for name, lm in models.items()
            if lm is not None
        }


def internal_log_probs(transducer: Transducer, projection: torch.Tensor) -> torch.Tensor:
    """log p of the next label given only the labels: projections (N, J) to (N, V), -inf for blank."""
    joiner = transducer.joiner
    zero = joiner.encoder_proj(projection.new_zeros(joiner.encoder_dim))
    logits = joiner.combine(zero, projection)
    labels = torch.log_softmax(logits[:, 1:].to(torch.promote_types(logits.dtype, torch.float32)), dim=-1)
    return torch.nn.functional.pad(labels, (1, 0), value=-torch.inf).to(projection.dtype)
