"""Contrastive fine-tuning of a sentence encoder on queries with their pertinent contexts and passages.

The other passages of a batch are the negatives (InfoNCE, van den Oord et al. 2018, arXiv 1807.03748, eq. 4), in both
directions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from asrkit.console import log, progress_bar
from asrkit.randomness import seeded_generator
from asrkit.retrieval.pcas import joined
from asrkit.retrieval.questions import PassageData, Question


@dataclass
class FineTuning:
    """Settings of fine-tuning."""

    epochs: int = 2
    batch_size: int = 32
    lr: float = 5e-5
    temperature: float = 0.05
    seed: int = 1


def contrastive_loss(
    queries: torch.Tensor, passages: torch.Tensor, gold: torch.Tensor, temperature: float
) -> torch.Tensor:
    """Mean cross-entropy of the correct passage among the batch's passages, and of the correct query among its queries.

    Args:
        queries: (B, D) of unit length.
        passages: (B, D) of unit length, the correct one of each query.
        gold: (B,) indices of the passages; a repeated passage is not its own negative.
        temperature: of the cosines.
    """
    scores = queries @ passages.T / temperature  # (B, B)
    same = gold[:, None] == gold[None, :]
    scores = scores.masked_fill(same & ~torch.eye(len(gold), dtype=torch.bool, device=gold.device), -torch.inf)
    right = torch.arange(len(gold), device=gold.device)
    return (functional.cross_entropy(scores, right) + functional.cross_entropy(scores.T, right)) / 2


def fine_tune(
    model: Any, data: PassageData, questions: Sequence[Question], settings: FineTuning, separator: str
) -> None:
    """Trains ``model`` (from sentence-transformers) in place on questions with a pertinent context."""
    generator = seeded_generator(settings.seed)
    torch.manual_seed(settings.seed)  # for dropout
    usable = [q for q in questions if q.context is not None]
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.lr)
    batch_size = min(settings.batch_size, len(usable))
    batches = len(usable) // batch_size
    steps = settings.epochs * batches
    warmup = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / (0.1 * steps), max(0.0, (steps - step) / (0.9 * steps)), 1.0)
    )
    model.train()
    with progress_bar("fine-tuning", steps) as bar:
        for epoch in range(settings.epochs):
            order = torch.randperm(len(usable), generator=generator).tolist()
            total = 0.0
            for start in range(0, batches * batch_size, batch_size):
                batch = [usable[i] for i in order[start : start + batch_size]]
                queries = [joined(q.query, q.contexts[q.context or 0], separator) for q in batch]
                gold = torch.tensor([q.passage for q in batch], device=model.device)
                vectors = [_embed(model, texts) for texts in (queries, [data.passages[q.passage] for q in batch])]
                loss = contrastive_loss(vectors[0], vectors[1], gold, settings.temperature)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                warmup.step()
                total += loss.item()
                bar.advance(f"loss {loss.item():.3f}")
            log(f"fine-tuning epoch {epoch + 1}: contrastive loss {total / batches:.3f}")
    model.eval()


def _embed(model: Any, texts: Sequence[str]) -> torch.Tensor:
    features = model.preprocess(list(texts))
    moved = {key: value.to(model.device) if torch.is_tensor(value) else value for key, value in features.items()}
    return functional.normalize(model(moved)["sentence_embedding"], dim=-1)
