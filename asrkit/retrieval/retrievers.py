"""Retrieving passages by words (BM25) or by meaning (vectors), with one interface."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from asrkit.errors import UserError
from asrkit.retrieval.encoders import SentenceEncoder
from asrkit.retrieval.index import VectorIndex


class Retriever(Protocol):
    """Scores s(x, p) of texts x and its passages p."""

    num_passages: int

    def search(self, texts: Sequence[str], depth: int) -> np.ndarray:
        """(n, depth) indices of the best passages for each text, best first; -1 for none."""
        ...

    def score(self, texts: Sequence[str], passages: np.ndarray) -> np.ndarray:
        """(n, K) s(x, p) of every text and the passages with indices (K,)."""
        ...

    def similarity(self, query: str, contexts: Sequence[str]) -> np.ndarray:
        """(m,) s(q, c)."""
        ...


class DenseRetriever:
    """Inner products of vectors.

    Args:
        passages: texts.
        encoder: of queries and contexts.
        passage_encoder: of passages, if different, as in DPR (Karpukhin et al. 2020, arXiv 2004.04906).
        index: ``flat`` or ``hnsw``.
    """

    def __init__(
        self,
        passages: Sequence[str],
        encoder: SentenceEncoder,
        passage_encoder: SentenceEncoder | None = None,
        index: str = "flat",
    ) -> None:
        self.encoder = encoder
        self.vectors = (passage_encoder or encoder).encode(passages)  # (N, D)
        self.num_passages = len(passages)
        self.index = VectorIndex(self.vectors, index)

    def search(self, texts: Sequence[str], depth: int) -> np.ndarray:
        """See :class:`Retriever`."""
        return self.index.search(self.encoder.encode(texts), min(depth, self.num_passages))

    def score(self, texts: Sequence[str], passages: np.ndarray) -> np.ndarray:
        """See :class:`Retriever`."""
        result: np.ndarray = (self.encoder.encode(texts) @ self.vectors[passages].T).astype(np.float64)
        return result

    def similarity(self, query: str, contexts: Sequence[str]) -> np.ndarray:
        """See :class:`Retriever`."""
        result: np.ndarray = (self.encoder.encode(contexts) @ self.encoder.encode([query])[0]).astype(np.float64)
        return result


class Bm25Retriever:
    """BM25 (Robertson and Zaragoza 2009) without stemming or English stop words.

    Args:
        passages: texts.
        k1: saturation of word counts.
        b: weight of the passage's length.

    Raises:
        UserError: bm25s is not installed.
    """

    def __init__(self, passages: Sequence[str], k1: float = 0.9, b: float = 0.4) -> None:
        self.num_passages = len(passages)
        self.k1, self.b = k1, b
        self._index = self._build(passages)
        self._known: dict[str, np.ndarray] = {}

    def search(self, texts: Sequence[str], depth: int) -> np.ndarray:
        """See :class:`Retriever`."""
        scores = self.score(texts, np.arange(self.num_passages))
        return np.argsort(-scores, axis=1, kind="stable")[:, :depth]

    def score(self, texts: Sequence[str], passages: np.ndarray) -> np.ndarray:
        """See :class:`Retriever`."""
        for text in texts:
            if text not in self._known:
                self._known[text] = _scores(self._index, text, self.num_passages)
        return np.stack([self._known[text][passages] for text in texts])

    def similarity(self, query: str, contexts: Sequence[str]) -> np.ndarray:
        """See :class:`Retriever`; the contexts are the documents."""
        return _scores(self._build(contexts), query, len(contexts))

    def _build(self, texts: Sequence[str]) -> object:
        try:
            import bm25s
        except ImportError as error:
            raise UserError("BM25 needs bm25s; pip install 'asrkit[retrieval]'") from error
        index = bm25s.BM25(k1=self.k1, b=self.b)
        words = bm25s.tokenize(list(texts), stopwords="en", return_ids=False, show_progress=False)
        index.index([line or [""] for line in words], show_progress=False)
        return index


def _scores(index: object, text: str, documents: int) -> np.ndarray:
    import bm25s

    (words,) = bm25s.tokenize([text], stopwords="en", return_ids=False, show_progress=False)
    known = [word for word in words if word in index.vocab_dict]  # type: ignore[attr-defined]
    if not known:
        return np.zeros(documents)
    return np.asarray(index.get_scores(known), dtype=np.float64)  # type: ignore[attr-defined]
