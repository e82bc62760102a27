"""NIST SPHERE files compressed with shorten (Robinson 1994), as the LDC distributes Fisher, decoded by desphere."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import wave
from pathlib import Path

from asrkit.errors import UserError
from asrkit.features.containers import SPHERE_HEADER_BYTES, sphere_fields

MOST_SAMPLES_PER_BYTE = 400
"""Digital silence takes a few bits for a block of 256 samples."""
PADDING_SAMPLES = 4096
"""More of them than a file claims are not padding of its last block."""
BYTES_PER_SAMPLE = 32
"""Memory for decoding one."""
_DAMAGED = 3
_DECODE = f"""
import sys

sys.path[:] = [place for place in sys.path if place]  # without the working directory
import resource
import wave
from desphere_native import shorten_to_pcm

source, target, start, rate, memory = sys.argv[1:]
hard = resource.getrlimit(resource.RLIMIT_AS)[1]
soft = int(memory) if hard == resource.RLIM_INFINITY else min(int(memory), hard)
try:
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
except ValueError:
    pass  # macOS cannot limit it
with open(source, "rb") as file:
    file.seek(int(start))
    stream = file.read()
try:
    channels, _, samples = shorten_to_pcm(stream)
except (ValueError, MemoryError) as error:
    print(error, file=sys.stderr)
    sys.exit({_DAMAGED})
with open(target, "wb") as written, wave.open(written, "wb") as file:
    file.setparams((channels, 2, int(rate), 0, "NONE", ""))
    file.writeframes(samples)
"""
"""Run in a process of its own: a few damaged bytes can ask for all memory."""


def is_shorten(path: Path) -> bool:
    """Whether a file is a SPHERE file compressed with shorten; False if it cannot be read."""
    try:
        return ",embedded-shorten" in sphere_fields(path).get("sample_coding", "")
    except OSError:
        return False


def decode_shorten(path: Path, target: Path) -> None:
    """Decodes a file to WAV.

    Raises:
        ValueError: it is damaged, or desphere is not installed.
        UserError: its process failed for another reason.
    """
    if importlib.util.find_spec("desphere_native") is None:
        raise ValueError("it is compressed with shorten: run pip install 'asrkit[sphere]', or convert it to WAV")
    fields = sphere_fields(path)
    claimed, channels = int(fields.get("sample_count", 0)), int(fields.get("channel_count", 1))
    if not 0 < claimed * channels <= MOST_SAMPLES_PER_BYTE * path.stat().st_size:
        raise ValueError(f"it cannot hold the {claimed} samples that it claims")
    memory = (1 << 29) + BYTES_PER_SAMPLE * claimed * channels
    numbers = int(fields[SPHERE_HEADER_BYTES]), int(fields.get("sample_rate", 0)), memory
    command = [sys.executable, "-c", _DECODE, str(path), str(target), *map(str, numbers)]
    result = subprocess.run(command, capture_output=True, text=True, errors="replace")
    if "memory allocation of" in result.stderr:
        raise ValueError(f"decoding it takes more memory than {claimed} samples need")
    reason = (result.stderr.strip().splitlines() or [f"exit code {result.returncode}"])[-1]
    if result.returncode == _DAMAGED:
        raise ValueError(reason)
    if result.returncode:
        raise UserError(f"decoding {path} failed: {reason}")
    with wave.open(str(target)) as decoded:
        count = decoded.getnframes()
    if not claimed <= count < claimed + PADDING_SAMPLES:
        raise ValueError(f"it has {count} samples where it claims {claimed}")
