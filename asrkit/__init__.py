"""asrkit: speech recognition with transducers, from a corpus on disk to a model that ships."""

__version__ = "0.1.0"
