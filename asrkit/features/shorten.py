"""NIST SPHERE files compressed with shorten (Robinson 1994), as the LDC distributes Fisher, decoded by desphere."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import wave
from pathlib import Path

SUFFIXES = (".sph", ".nist")
HEADER_BYTES = 1024
MOST_SAMPLES_PER_BYTE = 400
"""Digital silence takes a few bits for a block of 256 samples."""
_DECODE = """
import resource, sys
from pathlib import Path
from desphere import DesphereError, transcode_bytes

source, target, memory = sys.argv[1:]
resource.setrlimit(resource.RLIMIT_AS, (int(memory), int(memory)))
try:
    decoded = transcode_bytes(Path(source).read_bytes())
except DesphereError as error:
    sys.exit(str(error))
Path(target).write_bytes(decoded)
"""
"""Run in a process of its own: a few damaged bytes can ask for all memory."""


def is_shorten(path: Path) -> bool:
    """Whether a file is a SPHERE file compressed with shorten."""
    return path.suffix.lower() in SUFFIXES and path.is_file() and b",embedded-shorten" in _header(path)


def _header(path: Path) -> bytes:
    with path.open("rb") as file:
        start = file.read(HEADER_BYTES)
    return start if start.startswith(b"NIST_1A") else b""


def decode_shorten(path: Path, target: Path) -> None:
    """Decodes a file to WAV.

    Raises:
        ValueError: it is damaged, or desphere is not installed.
    """
    if importlib.util.find_spec("desphere") is None:
        raise ValueError("it is compressed with shorten: run pip install 'desphere[fast]', or convert it to WAV")
    claimed, channels = _count(path, b"sample_count"), _count(path, b"channel_count")
    if not 0 < claimed * channels <= MOST_SAMPLES_PER_BYTE * path.stat().st_size:
        raise ValueError(f"it cannot hold the {claimed} samples that it claims")
    memory = (1 << 29) + 32 * claimed * channels
    command = [sys.executable, "-c", _DECODE, str(path), str(target), str(memory)]
    result = subprocess.run(command, capture_output=True, text=True, errors="replace")
    if result.returncode == 1:
        raise ValueError((result.stderr.strip().splitlines() or ["desphere failed"])[-1])
    if result.returncode:  # out of memory
        raise ValueError(f"it has more than the {claimed} samples that it claims")
    with wave.open(str(target)) as decoded:
        if decoded.getnframes() != claimed:
            raise ValueError(f"it has {decoded.getnframes()} samples where it claims {claimed}")


def _count(path: Path, name: bytes) -> int:
    """A number in a file's header, 0 if it is not there."""
    found = re.search(rb"\n%s -i (\d+)\n" % name, _header(path))
    return int(found[1]) if found else 0
