"""Connections between learners."""

from __future__ import annotations

import contextlib
import socket

import torch

from asrkit.errors import UserError


def bytes_of(weights: torch.Tensor) -> memoryview:
    """The bytes of a vector, not copied."""
    return memoryview(weights.numpy().data).cast("B")


def read_exactly(connection: socket.socket, size: int) -> bytearray:
    """Exactly ``size`` bytes.

    Raises:
        ConnectionError: the connection ended too early.
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
    """Closes a connection, which wakes the threads that wait for it."""
    if connection is not None:
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
        connection.close()


def host_that_reaches(address: str, port: int) -> str:
    """The address of this machine on the network through which it reaches another one.

    Raises:
        UserError: the other one cannot be reached.
    """
    try:
        with socket.create_connection((address, port), 30) as probe:
            host: str = probe.getsockname()[0]
            return host
    except OSError as error:
        raise UserError(f"{address}:{port} cannot be reached ({error}); is learner 0 running?") from error
