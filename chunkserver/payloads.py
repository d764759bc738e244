"""Memory for payloads in transfer, bounded in bytes: the usual 4 MiB come from a pool, small and large ones do not."""

from __future__ import annotations

import threading
from collections import deque
from contextlib import suppress

from chunkserver.interface import CHUNK_BYTES_MAX
from wire.buffers import BufferPool
from wire.errors import Overloaded

_KIB = 1024
_RETRY_AFTER_S = 1


class Payload:
    """Borrowed memory of exactly the length asked for: `view` is writable until `release`."""

    __slots__ = ("_cost_bytes", "_memory", "_pooled", "view")

    def __init__(self, memory: PayloadMemory, view: memoryview, pooled: memoryview | None, cost_bytes: int) -> None:
        self._memory: PayloadMemory | None = memory
        self.view = view
        self._pooled = pooled
        self._cost_bytes = cost_bytes

    def release(self) -> None:
        """Give the memory back; harmless to repeat. Nothing may use `view` any more."""
        memory, self._memory = self._memory, None
        if memory is not None:
            memory._take_back(self._pooled, self._cost_bytes)

    def __del__(self) -> None:
        # An answer that was made and never sent (an error after the route) must not keep its bytes lent for ever. The
        # garbage collector may run this in a thread that holds the pool's lock, so no lock is taken here.
        memory, self._memory = self._memory, None
        if memory is not None:
            memory._lost.append((self._pooled, self._cost_bytes))


class PayloadMemory:
    """Lends at most `bytes_max` at once, in the order of asking, so that a large payload is not starved by small ones.

    Up to `small_bytes` and above `pooled_bytes` memory comes from the allocator and goes back to it; what is between
    gets a pooled buffer and counts as a whole one. Nothing is touched that a payload does not fill.
    """

    def __init__(
        self,
        bytes_max: int,
        *,
        wait_s: float = 10.0,
        pooled_bytes: int = 4 * 1024 * _KIB,
        small_bytes: int = 64 * _KIB,
    ) -> None:
        assert bytes_max >= CHUNK_BYTES_MAX, "the largest chunk must fit, or it would wait for ever"
        self._bytes_max = bytes_max
        self._wait_s = wait_s
        self._pooled_bytes = pooled_bytes
        self._small_bytes = small_bytes
        self._pool = BufferPool(pooled_bytes, bytes_max // pooled_bytes)
        self._changed = threading.Condition()
        self._queue: deque[object] = deque()  # one entry per waiting request, bounded by the server's threads
        self._lent_bytes = 0
        self._lost: deque[tuple[memoryview | None, int]] = deque()  # never released; bounded like what is lent

    @property
    def lent_bytes(self) -> int:
        return self._lent_bytes

    def lend(self, length: int) -> Payload:
        """Memory for `length` bytes with undefined contents. Raises Overloaded when it did not come free in time."""
        pooled = self._small_bytes < length <= self._pooled_bytes
        cost_bytes = self._pooled_bytes if pooled else length
        self._take_back_lost()
        self._admit(cost_bytes)
        try:
            if pooled:
                buffer = self._pool.acquire(self._wait_s)  # never waits: its bytes have been admitted
                return Payload(self, buffer[:length], buffer, cost_bytes)
            return Payload(self, memoryview(bytearray(length)), None, cost_bytes)
        except BaseException:
            self._take_back(None, cost_bytes)
            raise

    def trim(self, idle_s: float) -> None:
        """Give pooled memory that nobody used for `idle_s` back to the system."""
        self._take_back_lost()
        self._pool.trim(idle_s)

    def _admit(self, cost_bytes: int) -> None:
        ticket = object()
        with self._changed:
            self._queue.append(ticket)
            try:
                if not self._changed.wait_for(
                    lambda: self._queue[0] is ticket and self._lent_bytes + cost_bytes <= self._bytes_max, self._wait_s
                ):
                    raise Overloaded(
                        f"{self._lent_bytes} of {self._bytes_max} bytes for payloads are in use, "
                        f"{cost_bytes} more did not come free in {self._wait_s:g} s",
                        retry_after_s=_RETRY_AFTER_S,
                    )
                self._lent_bytes += cost_bytes
            finally:
                self._queue.remove(ticket)
                self._changed.notify_all()

    def _take_back_lost(self) -> None:
        with suppress(IndexError):
            while True:
                self._take_back(*self._lost.popleft())

    def _take_back(self, pooled: memoryview | None, cost_bytes: int) -> None:
        if pooled is not None:
            self._pool.release(pooled)  # before the bytes are free again: the next one finds the buffer
        with self._changed:
            self._lent_bytes -= cost_bytes
            self._changed.notify_all()
