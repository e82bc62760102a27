"""asrkit: speech recognition with transducers, from a corpus on disk to a model that ships."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from asrkit.export.recognizer import Recognizer as Recognizer

__version__ = "0.1.0"
__all__ = ["Recognizer"]


def __getattr__(name: str) -> object:
    """Imports :class:`~asrkit.export.recognizer.Recognizer` on first use: ``import asrkit`` is instant."""
    if name == "Recognizer":
        from asrkit.export.recognizer import Recognizer

        return Recognizer
    raise AttributeError(f"module 'asrkit' has no attribute '{name}'")
