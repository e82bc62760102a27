"""Encoding recordings that are too long for the encoder's memory, in overlapping windows."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from asrkit.models.encoder import Encoder

WINDOWS_AT_ONCE = 8
WINDOW_S, OVERLAP_S = 60.0, 5.0
"""Seconds of a window with its context, and of the context on either side."""


def encode(
    encoder: Encoder, x: torch.Tensor, x_lens: torch.Tensor, window: int, overlap: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The encoder's output; for utterances longer than ``window``, window by window.

    Attention memory grows with the square of the length. Longer utterances are cut into windows, each encoded with
    ``overlap`` frames of context on both sides, which are then dropped. So the window bounds memory, and a frame sees
    at least ``overlap`` frames around it.

    Args:
        encoder: any encoder.
        x: (B, T, F).
        x_lens: (B,).
        window: frames of a window with its context, at least three times ``overlap``.
        overlap: frames of context.

    Returns:
        encoder_out (B, T', D), zero in the padding, and encoder_lens (B,).
    """
    if x.shape[1] <= window:
        result: tuple[torch.Tensor, torch.Tensor] = encoder(x, x_lens)
        return result
    overlap = -(-overlap // encoder.subsampling) * encoder.subsampling
    if window < 3 * overlap + encoder.subsampling:
        raise ValueError(f"a window of {window} frames leaves too little between two overlaps of {overlap}")
    parts = [
        _encode_long(encoder, row[:length], window, overlap)
        if length > window
        else _encode_short(encoder, row[:length])
        for row, length in zip(x, x_lens.tolist(), strict=True)
    ]
    lens = torch.tensor([len(part) for part in parts], device=x_lens.device)
    return torch.nn.utils.rnn.pad_sequence(parts, batch_first=True), lens


def encode_any_length(
    encoder: Encoder, x: torch.Tensor, x_lens: torch.Tensor, frame_shift_s: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """:func:`encode` in windows of a minute, with ``frame_shift_s`` seconds between the frames of x."""
    return encode(encoder, x, x_lens, round(WINDOW_S / frame_shift_s), round(OVERLAP_S / frame_shift_s))


def _encode_short(encoder: Encoder, x: torch.Tensor) -> torch.Tensor:
    """(T, F) to (T', D)."""
    if not len(x):
        return x.new_zeros(0, encoder.output_dim)
    out, lens = encoder(x[None], torch.tensor([len(x)], device=x.device))
    result: torch.Tensor = out[0, : int(lens[0])]
    return result


def plan_windows(length: int, window: int, overlap: int, subsampling: int) -> list[tuple[int, int, int, int]]:
    """Windows over ``length`` frames: begin, first frame that is kept, end of the kept frames, and end."""
    overlap = -(-overlap // subsampling) * subsampling
    hop = (window - 2 * overlap) // subsampling * subsampling  # windows begin with an encoder frame
    return [
        (max(0, s - overlap), s, min(s + hop, length), min(s + hop + overlap, length)) for s in range(0, length, hop)
    ]


def encode_stretches(
    encoder: Encoder, x: Callable[[int, int], torch.Tensor], length: int, frame_shift_s: float
) -> Iterator[tuple[torch.Tensor, bool]]:
    """The result of :func:`encode_any_length` for one recording, window by window, in bounded memory.

    Args:
        encoder: any encoder.
        x: frames [first, end) of its input, (end - first, F).
        length: T.
        frame_shift_s: seconds between the frames of x.

    Yields:
        (n, D) frames, and whether they are the last.
    """
    window, step = round(WINDOW_S / frame_shift_s), encoder.subsampling
    if length <= window:
        yield _encode_short(encoder, x(0, length)), True
        return
    for begin, first, last, end in plan_windows(length, window, round(OVERLAP_S / frame_shift_s), step):
        part = _encode_short(encoder, x(begin, end))
        yield part[(first - begin) // step : -(-(last - begin) // step)], last == length


def _encode_long(encoder: Encoder, x: torch.Tensor, window: int, overlap: int) -> torch.Tensor:
    """(T, F) to (T', D), a few windows at a time."""
    step = encoder.subsampling
    spans = plan_windows(len(x), window, overlap, step)
    outputs: list[torch.Tensor] = []
    for i in range(0, len(spans), WINDOWS_AT_ONCE):
        group = spans[i : i + WINDOWS_AT_ONCE]
        windows = [x[begin:end] for begin, _, _, end in group]
        lens = torch.tensor([len(part) for part in windows], device=x.device)
        out, _ = encoder(torch.nn.utils.rnn.pad_sequence(windows, batch_first=True), lens)
        for row, (begin, first, last, _) in zip(out, group, strict=True):
            outputs.append(row[(first - begin) // step : -(-(last - begin) // step)])
    return torch.cat(outputs)
