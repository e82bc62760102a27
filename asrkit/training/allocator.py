"""A memory allocator that training is faster with, where the machine has it.

Batches differ in length, so each update asks for blocks of other sizes. glibc's malloc then spends a quarter of a
CPU training searching its lists of free blocks; gperftools' tcmalloc (Debian: libtcmalloc-minimal4) does not.
"""

from __future__ import annotations

import ctypes.util
import os
import sys

LIBRARIES = ("tcmalloc_minimal", "tcmalloc")


def find_allocator() -> str | None:
    """The name of a tcmalloc that the loader finds, or none."""
    return next((found for name in LIBRARIES if (found := ctypes.util.find_library(name))), None)


def restart_with_allocator() -> None:
    """Starts this command again with tcmalloc in place of malloc; returns where there is none or it is in already.

    Environment: a ``LD_PRELOAD`` that is set, if only to nothing, is left as it is.
    """
    library = find_allocator() if sys.platform == "linux" and "LD_PRELOAD" not in os.environ else None
    if library:
        arguments = [sys.executable, "-m", "asrkit", *sys.argv[1:]]
        os.execve(sys.executable, arguments, os.environ | {"LD_PRELOAD": library})
