"""What the peer of a connection does while one of its requests is served, as the kernel counts it.

Neither the bytes that a body reader has seen nor the calls that an answer has made tell a slow client from a slow
server, nor one that reads a 4 MiB piece steadily from one that reads nothing. The kernel can: bytes that the peer has
sent and acknowledged (TCP_INFO), bytes that wait for us (FIONREAD) and for the peer (TIOCOUTQ).
"""

from __future__ import annotations

import fcntl
import socket
import struct
import termios
from collections import deque
from dataclasses import dataclass

from wire.body import RequestBody

# Offsets of tcpi_bytes_acked and tcpi_bytes_received in struct tcp_info (linux/tcp.h, since 4.1); its start never
# changes.
_INFO_BYTES = 136
_INFO_COUNTERS = struct.Struct("=120xQQ")

#: parts that the window of a pace is kept in
_MARKS = 16


@dataclass(frozen=True, slots=True)
class _Mark:
    """`waited_s`: time in which we waited for the peer, `moved_bytes`: what went over the connection in it, both since
    the transfer's start."""

    waited_s: float
    moved_bytes: int


class Transfer:
    """One request's bytes, in or out. observe() is called by one thread at a time, some times per second; end() by any.

    `body` is the request's body, if it has one. A time in which the peer waits for us counts neither as silence nor
    against its pace.
    """

    def __init__(self, sock: socket.socket, body: RequestBody | None, *, now_s: float, window_s: float) -> None:
        self._sock = sock
        self._body = body
        self._window_s = window_s
        self._seen_s = now_s
        self._moved_s = now_s  # when bytes were last seen to move, or the peer to wait for us
        self._moved_bytes: int | None = None
        self._total = _Mark(0.0, 0)
        self._marks = deque([self._total])

    def observe(self, now_s: float) -> None:
        """Look at the connection. Raises nothing: a connection that is gone looks like one that waits for us."""
        try:
            moved_bytes = _moved_bytes(self._sock)
            waits = self._waits_for_peer()
        except OSError:
            moved_bytes, waits = self._moved_bytes or 0, False
        if self._moved_bytes is None:  # earlier requests of this connection do not count
            self._seen_s = self._moved_s = now_s
            self._moved_bytes = moved_bytes
        passed_s, passed_bytes = now_s - self._seen_s, moved_bytes - self._moved_bytes
        self._seen_s, self._moved_bytes = now_s, moved_bytes
        if passed_bytes or not waits:
            self._moved_s = now_s
        if waits:
            self._count(passed_s, passed_bytes)

    @property
    def silent_s(self) -> float:
        """How long we had waited in vain when it was last observed."""
        return self._seen_s - self._moved_s

    @property
    def bytes_per_s(self) -> float | None:
        """Pace over the window, or None before we have waited for so long."""
        first = self._marks[0]
        waited_s = self._total.waited_s - first.waited_s
        return None if waited_s < self._window_s else (self._total.moved_bytes - first.moved_bytes) / waited_s

    def end(self, why: str) -> None:
        """Wake up the thread that serves the request: its body ends with a BodyTimeout that says `why`, or its answer
        with a reset connection. Raises nothing."""
        try:
            if self._body is not None and not self._body.ended:
                self._body.give_up(why)
            else:
                self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self._sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # ended by itself

    def _waits_for_peer(self) -> bool:
        if _queued(self._sock, termios.TIOCOUTQ):
            return True
        return self._body is not None and not self._body.ended and not _queued(self._sock, termios.FIONREAD)

    def _count(self, passed_s: float, passed_bytes: int) -> None:
        self._total = _Mark(self._total.waited_s + passed_s, self._total.moved_bytes + passed_bytes)
        if self._total.waited_s - self._marks[-1].waited_s >= self._window_s / _MARKS:
            self._marks.append(self._total)
        while len(self._marks) > 1 and self._total.waited_s - self._marks[1].waited_s >= self._window_s:
            self._marks.popleft()


def _moved_bytes(sock: socket.socket) -> int:
    acknowledged, received = _INFO_COUNTERS.unpack(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO_BYTES))
    return int(acknowledged) + int(received)


def _queued(sock: socket.socket, request: int) -> int:
    count: int = struct.unpack("i", fcntl.ioctl(sock, request, bytes(4)))[0]
    return count
