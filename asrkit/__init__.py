"""asrkit: speech recognition with transducers, from a corpus on disk to a model that ships."""

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
    """Imports what :data:`__all__` names on first use: ``import asrkit`` is instant."""
    if name in __all__:
        return getattr(import_module("asrkit.export.recognizer" if name == "Recognizer" else "asrkit.api"), name)
    raise AttributeError(f"module 'asrkit' has no attribute '{name}'")
