"""Settings of retrieval, as in YAML."""

from __future__ import annotations

from dataclasses import dataclass, field

from asrkit.retrieval.fine_tuning import FineTuning
from asrkit.retrieval.pcas import System
from asrkit.settings import setting


@dataclass
class RetrieverSettings:
    """A retriever."""

    type: str = setting("dense", "By vectors or by words.", choices=("dense", "bm25"))
    encoder: str = "minilm"
    """``minilm`` (from a package), a folder or a sentence-transformers name."""
    passage_encoder: str = ""
    """Another encoder for passages; empty for the same."""
    normalize: bool = True
    """Cosines; otherwise inner products, with which some encoders were trained."""
    index: str = setting("flat", "Index of the vectors.", choices=("flat", "hnsw"))
    k1: float = 0.9
    b: float = 0.4
    fine_tune: bool = False
    """Train the encoder on the training questions first."""


@dataclass
class RetrievalSettings:
    """Retrievers, systems and the experiment."""

    retrievers: dict[str, RetrieverSettings] = field(default_factory=dict)
    systems: dict[str, System] = field(default_factory=dict)
    depth: int = 100
    """Passages per search."""
    separator: str = " "
    """Separator of query and context."""
    context_counts: list[int] = field(default_factory=lambda: [3, 5, 10, 20])
    """Numbers of contexts per user."""
    table_count: int = 10
    """Contexts per user in the tables."""
    draws: int = 1
    """How often each question is asked, with different contexts."""
    seed: int = 1
    fine_tuning: FineTuning = field(default_factory=FineTuning)
