"""Nearest-vector search with faiss, exact or by a graph, and by brute force as a reference."""

from __future__ import annotations

from typing import Any

import numpy as np

from asrkit.errors import UserError

GRAPH_NEIGHBOURS, GRAPH_EFFORT = 32, 128


def brute_force(vectors: np.ndarray, queries: np.ndarray, depth: int) -> np.ndarray:
    """(Q, depth) indices of the vectors (N, D) with the largest inner products with queries (Q, D), best first.

    Ties go to the lower index.
    """
    scores = queries @ vectors.T
    return np.argsort(-scores, axis=1, kind="stable")[:, :depth]


class VectorIndex:
    """Finds vectors by inner product.

    Args:
        vectors: (N, D) float32.
        kind: ``flat`` compares with all vectors; ``hnsw`` (Malkov and Yashunin 2018, arXiv 1603.09320) searches a graph
            and may miss some.

    Raises:
        UserError: faiss is not installed.
    """

    def __init__(self, vectors: np.ndarray, kind: str = "flat") -> None:
        try:
            import faiss
        except ImportError as error:
            raise UserError("dense retrieval needs faiss; pip install 'asrkit[retrieval]'") from error
        if kind == "hnsw":
            graph = faiss.IndexHNSWFlat(vectors.shape[1], GRAPH_NEIGHBOURS, faiss.METRIC_INNER_PRODUCT)
            graph.hnsw.efSearch = GRAPH_EFFORT
            self._index: Any = graph
        else:
            self._index = faiss.IndexFlatIP(vectors.shape[1])
        self._index.add(vectors)

    def search(self, queries: np.ndarray, depth: int) -> np.ndarray:
        """(Q, depth) indices, best first; -1 if a graph search found fewer."""
        indices: np.ndarray = self._index.search(queries, depth)[1]
        return indices
