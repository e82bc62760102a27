"""asrkit: speech recognition with transducers, from a corpus on disk to a shipped model."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from asrkit.api import decode as decode
    from asrkit.api import load as load
    from asrkit.api import score as score
    from asrkit.api import train as train
    from asrkit.export.recognizer import Recognizer as Recognizer

__version__ = "0.1.0"
__all__ = ["Recognizer", "decode", "load", "score", "train"]


def __getattr__(name: str) -> object:
    """Imports the names in :data:`__all__` on first use, so that ``import asrkit`` is fast."""
    if name in __all__:
        return getattr(import_module("asrkit.export.recognizer" if name == "Recognizer" else "asrkit.api"), name)
    raise AttributeError(f"module 'asrkit' has no attribute '{name}'")
