"""What a CPU trains and searches faster with, since batches differ in length and each brings other shapes.

Memory: glibc's malloc spends a quarter of a training searching its lists of free blocks, since sizes keep changing;
gperftools' tcmalloc (Debian: libtcmalloc-minimal4) does not.

Kernels: oneDNN compiles a kernel for every new shape of a bf16 product and keeps the last 1024, which are soon used
up; from then on each new one is a search through all for the oldest. So many are kept here that a training does not
get there, and padding makes the shapes few (``loaders.PAD_FRAMES``, ``transducer.PAD_ROWS``).
"""

from __future__ import annotations

import ctypes.util
import os
import sys
from collections.abc import Sequence

LIBRARIES = ("tcmalloc_minimal", "tcmalloc")
KERNELS = 1 << 16


def find_allocator() -> str | None:
    """The name of a tcmalloc that the loader finds, or none."""
    return next((found for name in LIBRARIES if (found := ctypes.util.find_library(name))), None)


def keep_kernels() -> None:
    """Lets oneDNN keep the kernels of many shapes; to be called before its first product.

    Environment: an ``ONEDNN_PRIMITIVE_CACHE_CAPACITY`` that is set is left as it is.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", str(KERNELS))


def restart_with_allocator(arguments: Sequence[str]) -> None:
    """Starts Python again with tcmalloc in place of malloc; returns where there is none or it is in already.

    Args:
        arguments: of Python, that make the same command.

    Environment: a ``LD_PRELOAD`` that is set, if only to nothing, is left as it is.
    """
    library = find_allocator() if sys.platform == "linux" and "LD_PRELOAD" not in os.environ else None
    if library:
        os.execve(sys.executable, [sys.executable, *arguments], os.environ | {"LD_PRELOAD": library})
