"""Connections between learners."""

from __future__ import annotations

import contextlib
import socket

import torch

from asrkit.errors import UserError


def bytes_of(weights: torch.Tensor) -> memoryview:
    """Those of a vector, not copied."""
    return memoryview(weights.numpy().data).cast("B")


def read_exactly(connection: socket.socket, size: int) -> bytearray:
    """So many bytes.

    Raises:
        ConnectionError: the connection ended before.
    """
    content = bytearray(size)
    view = memoryview(content)
    while len(view):
        count = connection.recv_into(view)
        if not count:
            raise ConnectionError("the connection was closed")
        view = view[count:]
    return content


def shut(connection: socket.socket | None) -> None:
    """Closes a connection, which wakes who waits for it."""
    if connection is not None:
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
        connection.close()


def host_that_reaches(address: str, port: int) -> str:
    """The address of this machine on the network that leads to another one.

    Raises:
        UserError: there is no way.
    """
    try:
        with socket.create_connection((address, port), 30) as probe:
            host: str = probe.getsockname()[0]
            return host
    except OSError as error:
        raise UserError(f"{address}:{port} cannot be reached ({error}); is learner 0 running?") from error
