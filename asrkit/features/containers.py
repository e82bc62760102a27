"""Checks that an audio file ends where its container says, which decoders do not check."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path

SPHERE_HEADER_BYTES = "header bytes"
_HEAD_BYTES = 1 << 12
_OGG_TAIL_BYTES = 1 << 17  # two pages of the largest size
_OGG_LAST_PAGE = 0x04


def truncation(path: Path) -> str:
    """Describes what is missing at the end of a WAV, Sphere or Ogg file; empty if nothing is, or if unknown.

    Raises:
        OSError: the file cannot be read.
    """
    size = path.stat().st_size
    with open(path, "rb") as file:
        head = file.read(_HEAD_BYTES)
        if head[:4] == b"RIFF" and len(head) >= 12:
            return _missing_bytes(size, 8 + int(struct.unpack("<I", head[4:8])[0]))
        if fields := _sphere_fields(head):
            return _sphere_truncation(fields, size)
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


def sphere_fields(path: Path) -> dict[str, str]:
    """Values in the header of a NIST SPHERE file, and its size as :data:`SPHERE_HEADER_BYTES`; empty for other files.

    Raises:
        OSError: the file cannot be read.
    """
    with open(path, "rb") as file:
        return _sphere_fields(file.read(_HEAD_BYTES))


def _sphere_fields(head: bytes) -> dict[str, str]:
    if not head.startswith(b"NIST_1A"):
        return {}
    lines = head.decode("ascii", errors="replace").splitlines()
    fields = {SPHERE_HEADER_BYTES: lines[1].strip() if len(lines) > 1 else ""}
    for line in lines:
        words = line.split()
        if words == ["end_head"]:
            break
        if len(words) == 3:
            fields[words[0]] = words[2]
    return fields


def _sphere_truncation(fields: Mapping[str, str], size: int) -> str:
    coding = fields.get("sample_coding", "pcm")
    if "," in coding:  # compressed, such as pcm,embedded-shorten-v2.00
        return ""
    samples = int(fields.get("sample_count", 0)) * int(fields.get("channel_count", 1))
    width = int(fields.get("sample_n_bytes", 2 if coding == "pcm" else 1))
    return _missing_bytes(size, int(fields[SPHERE_HEADER_BYTES]) + samples * width)
