"""Checks that an audio file ends where its container says, which decoders do not check."""

from __future__ import annotations

import struct
from pathlib import Path

_OGG_TAIL_BYTES = 1 << 17  # two pages of the largest size
_OGG_LAST_PAGE = 0x04


def truncation(path: Path) -> str:
    """Describes what is missing at the end of a WAV, Sphere or Ogg file; empty if nothing is, or if unknown.

    Raises:
        OSError: the file cannot be read.
    """
    size = path.stat().st_size
    with open(path, "rb") as file:
        head = file.read(1 << 12)
        if head[:4] == b"RIFF" and len(head) >= 12:
            return _missing_bytes(size, 8 + int(struct.unpack("<I", head[4:8])[0]))
        if head[:7] == b"NIST_1A":
            return _sphere_truncation(head, size)
        if head[:4] == b"OggS":
            file.seek(max(0, size - _OGG_TAIL_BYTES))
            tail = file.read()
            last = tail.rfind(b"OggS")
            if last < 0 or len(tail) < last + 27 or not tail[last + 5] & _OGG_LAST_PAGE:
                return "its last page is missing"
            segments = tail[last + 27 : last + 27 + tail[last + 26]]
            return _missing_bytes(len(tail), last + 27 + tail[last + 26] + sum(segments))
    return ""


def _missing_bytes(size: int, expected: int) -> str:
    # A WAV written to a pipe states the maximum size; sox writes the signed maximum.
    return f"{expected - size} bytes are missing" if size < expected < 0x7FFFF000 else ""


def _sphere_truncation(head: bytes, size: int) -> str:
    fields = {}
    for line in head.decode("ascii", errors="replace").splitlines():
        words = line.split()
        if words == ["end_head"]:
            break
        if len(words) == 3:
            fields[words[0]] = words[2]
    if "," in fields.get("sample_coding", ""):  # compressed, such as pcm,embedded-shorten-v2.00
        return ""
    header_bytes = int(head.splitlines()[1])
    samples = int(fields.get("sample_count", 0)) * int(fields.get("channel_count", 1))
    return _missing_bytes(size, header_bytes + samples * int(fields.get("sample_n_bytes", 2)))
