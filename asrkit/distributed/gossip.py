"""Averaging with one learner at a time, in the background (Cui et al. 2021, arXiv 2110.11199).

A learner asks another for an average: it sends its weights w_i; the other answers with d = β (w_j − w_i) and subtracts
d from its own, and the asking learner adds d. No lock is held while a message is in transit, so learners cannot block
each other, however many they are, and gradient steps continue meanwhile. Numbered requests preserve the sum of all
weights: an answer is kept until it is known to have been added, and taken back if it was not.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from dataclasses import dataclass, field

import torch

from asrkit.distributed.membership import Membership, Peer
from asrkit.distributed.mixing import SHARES, partner
from asrkit.distributed.sockets import bytes_of, read_exactly, shut
from asrkit.distributed.updates import exchanged

EXCHANGE, QUERY, FETCH = 1, 2, 3
HEADER = struct.Struct("!8sBiiqqq")
"""Secret of the training, kind of request, rank, incarnation, request number, last number added, bytes that follow."""
ANSWER = struct.Struct("!qq")
"""Request number, bytes that follow."""
ADDED = b"+"
TIMEOUTS_PER_LIMIT = 10
PEERS_S = 0.5
"""How long a list of peers is used."""
CHECK_S = 1.0
"""Shortest time before a learner that did not answer is asked again."""


@dataclass
class Link:
    """A connection to a learner that this one asks."""

    peer: Peer
    connection: socket.socket | None = None
    number: int = 0
    """Of the last request."""
    added: int = 0
    """Number of the last answer that was added to the weights."""


@dataclass
class Tally:
    """Counts since the last report."""

    exchanges: int = 0
    failures: int = 0
    """Exchanges that ended without an answer."""
    taken_back: int = 0
    """Answers that were not added."""


@dataclass
class Asked:
    """What this learner knows about one that asks it."""

    latest: int = 0
    """Number of its newest request."""
    unsure: torch.Tensor | None = None
    """(d,) the answer to it, until it is known to have been added."""
    agreed: list[int] = field(default_factory=list)
    """Numbers of the answers that were added, if recorded."""


class Gossip:
    """The weights of this learner, and the threads that average them with others'.

    Args:
        weights: (d,) at the start, on the CPU.
        membership: of this learner.
        kind: of :func:`asrkit.distributed.mixing.partner`.
        seed: for the random kinds.
        secret: eight bytes that all learners of a training share.
        host: name or address at which the others reach this machine.
        record: keep the number of every exchange, for tests.
    """

    def __init__(
        self,
        weights: torch.Tensor,
        membership: Membership,
        kind: str,
        seed: int,
        secret: bytes,
        host: str,
        record: bool = False,
    ) -> None:
        self.membership, self.kind, self.seed, self.secret, self.record = membership, kind, seed, secret, record
        self.rank, self.incarnation = membership.rank, membership.incarnation
        self.timeout_s = membership.beats.limit_s / TIMEOUTS_PER_LIMIT
        self.tally = Tally()
        self.asked: dict[tuple[int, int], Asked] = {}
        self.added: dict[tuple[int, int], list[int]] = {}
        """Numbers of the answers that were added, by rank and incarnation of their sender, if recorded."""
        self._weights = weights.clone()
        self._lock = threading.Lock()
        self._links: dict[int, Link] = {}
        self._silent: dict[int, tuple[float, int]] = {}
        """Learners that did not answer: when, and their count of heartbeats at that time."""
        self._steps = 0
        self._turn = threading.Condition()
        self._due = self._busy = self._ended = False
        self.error: Exception | None = None
        self._asks = True
        self._peers: dict[int, Peer] = {}
        self._peers_at = -PEERS_S
        self._server = socket.create_server((host, 0), backlog=128)
        self.host = host
        self._answering: dict[threading.Thread, socket.socket] = {}
        self._threads = [
            threading.Thread(target=self._accept, name="gossip-accept", daemon=True),
            threading.Thread(target=self._run, name="gossip-ask", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def open(self) -> None:
        """From now on, others may ask this learner for averages."""
        self.membership.announce(self.host, self._server.getsockname()[1])

    def step(self, update: torch.Tensor) -> torch.Tensor:
        """Adds an update (d,) to the weights, has them averaged in the background, and returns a copy of them."""
        if self.error:
            raise self.error
        with self._lock:
            self._weights += update
            weights = self._weights.clone()
            self._steps += 1
        with self._turn:
            self._due = self._asks
            self._turn.notify_all()
        return weights

    def weights(self) -> torch.Tensor:
        """(d,) a copy."""
        with self._lock:
            return self._weights.clone()

    def put(self, weights: torch.Tensor) -> None:
        """Replaces the weights (d,)."""
        with self._lock:
            self._weights.copy_(weights)

    def fetch(self) -> torch.Tensor | None:
        """(d,) the weights of another learner, None if none can be reached."""
        for peer in self.membership.peers().values():
            link = Link(peer)
            with contextlib.suppress(OSError), contextlib.closing(self._connect(link)):
                self._ask(link, FETCH, b"")
                return self._tensor(self._receive(link, self._size()))
        return None

    def pause(self) -> None:
        """Stops asking; returns once a pending request is answered or given up."""
        with self._turn:
            self._asks = self._due = False
            self._turn.wait_for(lambda: not self._busy)

    def resume(self) -> None:
        """Resumes asking after each step."""
        with self._turn:
            self._asks = True

    def settle(self) -> None:
        """Asks learners whose answers may be lost whether they added them, and takes back those not added."""
        peers = self.membership.peers()
        for (rank, incarnation), asked in list(self.asked.items()):
            if asked.unsure is None:
                continue
            peer = peers.get(rank)
            if peer is None or peer.incarnation != incarnation:
                asked.unsure = None  # lost with that learner's weights
                continue
            link = Link(peer, number=asked.latest)
            with contextlib.suppress(OSError), contextlib.closing(self._connect(link)):
                self._ask(link, QUERY, b"")
                self._resolve(asked, int.from_bytes(self._receive(link, 8), "big"))

    def take_tally(self) -> Tally:
        """The counts since the last call."""
        tally, self.tally = self.tally, Tally()
        return tally

    def drop_connections(self) -> None:
        """Closes all connections to learners that this one asks; the next request reopens them."""
        for link in list(self._links.values()):
            shut(link.connection)

    def close(self) -> None:
        """Ends the threads: one that still runs at interpreter exit could crash the process."""
        with self._turn:
            self._ended = True
            self._turn.notify_all()
        shut(self._server)
        self.drop_connections()
        answering = list(self._answering.items())
        for _, connection in answering:
            shut(connection)
        for thread in [*self._threads, *(thread for thread, _ in answering)]:
            thread.join(self.timeout_s)

    # Asking

    def _run(self) -> None:
        while True:
            with self._turn:
                self._busy = False
                self._turn.notify_all()
                self._turn.wait_for(lambda: self._due or self._ended)
                if self._ended:
                    return
                self._due, self._busy = False, True
            try:
                peer = self._choose()
                if peer is not None:
                    self._exchange(peer)
            except Exception as error:  # of any kind: the thread must not end silently
                self.error = error

    def _choose(self) -> Peer | None:
        now, counts = time.monotonic(), self.membership.beats.counts
        if now - self._peers_at >= PEERS_S:
            try:
                self._peers, self._peers_at = self.membership.peers(), now
            except RuntimeError:  # the store is gone: the heartbeats report it
                return None
        peers = self._peers
        for rank, (since, count) in list(self._silent.items()):
            if now - since > CHECK_S and counts.get(rank) != count:
                del self._silent[rank]
        present = sorted({*peers, self.rank} - set(self._silent))
        chosen = partner(self.kind, present, self.rank, self.seed, self._steps)
        return None if chosen is None else peers[chosen]

    def _exchange(self, peer: Peer) -> None:
        link = self._links.get(peer.rank)
        if link is None or link.peer.incarnation != peer.incarnation:
            if link is not None:
                shut(link.connection)
            link = self._links[peer.rank] = Link(peer)
        link.number += 1
        try:
            if link.connection is None:
                self._connect(link)
            own = self.weights()
            self._ask(link, EXCHANGE, bytes_of(own))
            difference = self._tensor(self._receive(link, self._size()))
            with self._lock:
                self._weights += difference
                link.added = link.number
            if self.record:
                self.added.setdefault((peer.rank, peer.incarnation), []).append(link.number)
            self.tally.exchanges += 1
            assert link.connection is not None
            link.connection.sendall(ADDED)
        except OSError:
            shut(link.connection)
            link.connection = None
            if link.added != link.number:
                self.tally.failures += 1
                self._silent[peer.rank] = time.monotonic(), self.membership.beats.counts.get(peer.rank, 0)
                self._peers_at = -PEERS_S

    def _connect(self, link: Link) -> socket.socket:
        link.connection = socket.create_connection((link.peer.host, link.peer.port), self.timeout_s)
        link.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return link.connection

    def _ask(self, link: Link, request: int, content: bytes | memoryview) -> None:
        assert link.connection is not None
        header = HEADER.pack(self.secret, request, self.rank, self.incarnation, link.number, link.added, len(content))
        link.connection.sendall(header)
        link.connection.sendall(content)

    def _receive(self, link: Link, size: int) -> bytearray:
        """The answer to the last request."""
        assert link.connection is not None
        number, length = ANSWER.unpack(read_exactly(link.connection, ANSWER.size))
        if number != link.number or length != size:
            raise ConnectionError("an answer to another request")
        return read_exactly(link.connection, size)

    # Answering

    def _accept(self) -> None:
        while not self._ended:
            try:
                connection, _ = self._server.accept()
            except OSError:
                time.sleep(CHECK_S if not self._ended else 0.0)  # such as too many open files
                continue
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            thread = threading.Thread(target=self._serve, args=(connection,), name="gossip-answer", daemon=True)
            self._answering[thread] = connection
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            self._serve_until_closed(connection)
        self._answering.pop(threading.current_thread(), None)

    def _serve_until_closed(self, connection: socket.socket) -> None:
        while not self._ended:
            connection.settimeout(None)
            header = HEADER.unpack(read_exactly(connection, HEADER.size))
            secret, request, rank, incarnation, number, added, size = header
            if secret != self.secret or size not in (0, self._size()):
                return
            connection.settimeout(self.timeout_s)
            content = read_exactly(connection, size)
            if request == EXCHANGE:
                self._answer(connection, (rank, incarnation), number, added, self._tensor(content))
            elif request == QUERY:
                link = self._links.get(rank)
                last = link.added if link is not None and link.peer.incarnation == incarnation else 0
                connection.sendall(ANSWER.pack(number, 8) + last.to_bytes(8, "big"))
            elif request == FETCH:
                weights = self.weights()
                connection.sendall(ANSWER.pack(number, self._size()))
                connection.sendall(bytes_of(weights))

    def _answer(
        self, connection: socket.socket, sender: tuple[int, int], number: int, added: int, theirs: torch.Tensor
    ) -> None:
        with self._lock:
            asked = self.asked.setdefault(sender, Asked())
            if number <= asked.latest:  # given up and superseded by a newer one
                return
            self._resolve_locked(asked, added)
            difference = exchanged(theirs, self._weights, SHARES[self.kind])
            self._weights -= difference
            asked.latest, asked.unsure = number, difference
        connection.sendall(ANSWER.pack(number, self._size()))
        connection.sendall(bytes_of(difference))
        if read_exactly(connection, len(ADDED)) == ADDED:
            with self._lock:
                if asked.latest == number:
                    self._resolve_locked(asked, number)

    def _resolve(self, asked: Asked, added: int) -> None:
        with self._lock:
            self._resolve_locked(asked, added)

    def _resolve_locked(self, asked: Asked, added: int) -> None:
        """``added``: the number of the answer that the asking learner added last."""
        if asked.unsure is None:
            return
        if added == asked.latest:
            if self.record:
                asked.agreed.append(added)
        else:
            self._weights += asked.unsure
            self.tally.taken_back += 1
        asked.unsure = None

    def _size(self) -> int:
        return self._weights.numel() * self._weights.element_size()

    def _tensor(self, content: bytearray) -> torch.Tensor:
        return torch.frombuffer(content, dtype=self._weights.dtype)
