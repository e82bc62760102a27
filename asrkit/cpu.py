"""Faster training and search on a CPU, although every batch has new shapes.

Memory: with changing sizes, glibc's malloc spends a quarter of training searching its free lists; gperftools'
tcmalloc (Debian: libtcmalloc-minimal4) does not.

Kernels: oneDNN compiles a kernel for every new shape of a bf16 product and caches the last 1024. When the cache is
full, each new kernel searches all for the oldest. The cache here is too large for training to fill, and padding limits
the number of shapes (``loaders.PAD_FRAMES``, ``transducer.PAD_ROWS``).
"""

from __future__ import annotations

import ctypes.util
import os
import sys
from collections.abc import Sequence

LIBRARIES = ("tcmalloc_minimal", "tcmalloc")
KERNELS = 1 << 16


def find_allocator() -> str | None:
    """The name of an installed tcmalloc library, or None."""
    return next((library for name in LIBRARIES if (library := ctypes.util.find_library(name))), None)


def keep_kernels() -> None:
    """Lets oneDNN keep the kernels of many shapes; call it before the first product.

    Environment: an existing ``ONEDNN_PRIMITIVE_CACHE_CAPACITY`` is kept.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", str(KERNELS))


def restart_with_allocator(arguments: Sequence[str]) -> None:
    """Restarts Python with tcmalloc in place of malloc; returns if there is none or it is already in use.

    Args:
        arguments: of Python, which repeat the command.

    Environment: an existing ``LD_PRELOAD``, even if empty, is kept.
    """
    library = find_allocator() if sys.platform == "linux" and "LD_PRELOAD" not in os.environ else None
    if library:
        os.execve(sys.executable, [sys.executable, *arguments], os.environ | {"LD_PRELOAD": library})
