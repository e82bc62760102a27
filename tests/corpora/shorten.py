"""Writes SPHERE files compressed with shorten (Robinson 1994), as the LDC distributes Fisher and CallHome."""

from __future__ import annotations

from pathlib import Path

import numpy as np

BLOCK_SAMPLES = 256
LOW_BYTE_FIRST = 5
"""The type of 16-bit samples."""
DIFFERENCES, QUIT, BLOCK_SIZE, SILENCE = 1, 4, 5, 8
"""Commands: a block of first differences, the end, another block size, and a block of zeros."""


def write_shorten(path: Path, samples: np.ndarray, rate_hz: int, silence_blocks: int = 0) -> None:
    """(N, channels) float samples in [-1, 1] as 16-bit samples, each predicted to be the one before.

    Args:
        path: of the file.
        samples: the audio.
        rate_hz: its rate.
        silence_blocks: blocks of zeros at the end, which the header does not count.
    """
    values = np.round(np.clip(samples, -1, 1) * 32767).astype(np.int64)
    channels = values.shape[1]
    bits = [_number(n) for n in (LOW_BYTE_FIRST, channels, BLOCK_SAMPLES, 0, 0, 0)]
    differences = np.diff(values, axis=0, prepend=0)
    for start in range(0, len(values), BLOCK_SAMPLES):
        block = differences[start : start + BLOCK_SAMPLES]
        if len(block) < BLOCK_SAMPLES:
            bits += [_rice(BLOCK_SIZE, 2), _number(len(block))]
        for channel in block.T:
            width = max(1, int(np.abs(channel).mean()).bit_length())
            bits += [_rice(DIFFERENCES, 2), _rice(width - 1, 3)]
            bits += [_rice(2 * d if d >= 0 else -2 * d - 1, width) for d in channel.tolist()]
    bits += [_rice(SILENCE, 2)] * silence_blocks
    stream = "".join([*bits, _rice(QUIT, 2)])
    stream += "0" * (-len(stream) % 32)
    path.parent.mkdir(parents=True, exist_ok=True)
    data = int(stream, 2).to_bytes(len(stream) // 8, "big")
    path.write_bytes(write_header(len(values), channels, rate_hz) + b"ajkg\x02" + data)


def write_header(samples: int, channels: int, rate_hz: int) -> bytes:
    """A SPHERE header of 16-bit samples compressed with shorten."""
    fields = {"channel_count": channels, "sample_count": samples, "sample_rate": rate_hz, "sample_n_bytes": 2}
    lines = [f"{name} -i {value}" for name, value in fields.items()]
    lines += ["sample_byte_format -s2 01", "sample_sig_bits -i 16", "sample_coding -s26 pcm,embedded-shorten-v2.00"]
    return "\n".join(["NIST_1A", "   1024", *lines, "end_head", ""]).encode().ljust(1024)


def _number(value: int) -> str:
    """A number of any size: the bits it needs, then itself."""
    width = value.bit_length()
    return _rice(width, 2) + _rice(value, width)


def _rice(value: int, width: int) -> str:
    """Rice code: the high part in unary, then ``width`` low bits."""
    low = f"{value & ((1 << width) - 1):0{width}b}" if width else ""
    return "0" * (value >> width) + "1" + low
