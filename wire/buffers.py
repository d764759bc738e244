"""A bounded pool of large buffers: what keeps the memory of a process bounded, whatever the number of requests."""

from __future__ import annotations

import mmap
import threading
import time
from collections import deque
from typing import Protocol

from wire.errors import Overloaded
from wire.memory import has_room


class BufferPool:
    """At most `count_max` page-aligned buffers of exactly `buffer_bytes`, made when first needed.

    Who acquires a buffer owns it until release(); slices of it must not be used afterwards. Waiting is first come,
    first served.
    """

    def __init__(self, buffer_bytes: int, count_max: int) -> None:
        assert buffer_bytes > 0
        assert count_max > 0
        self.buffer_bytes = buffer_bytes
        self.count_max = count_max
        self._lock = threading.Lock()
        self._waiting: deque[_Waiter] = deque()
        # The last one given back is the next one used: its pages are warm, and the others grow old enough to be
        # trimmed.
        self._idle: list[_Idle] = []
        self._held: dict[int, tuple[memoryview, mmap.mmap]] = {}

    def acquire(self, timeout_s: float) -> memoryview:
        """A writable buffer with undefined contents. Raises Overloaded when none came free within `timeout_s`, or the
        machine has no memory for another one."""
        with self._lock:
            # While anybody waits nothing is idle: release() hands over. So nobody is overtaken here.
            if self._idle:
                return self._lend(self._idle.pop().memory)
            if len(self._held) < self.count_max:
                try:
                    return self._lend(self._make())
                except Overloaded:
                    if not self._held:
                        raise
                    # Others give theirs back: the pool is as large as there is room.
            waiter = _Waiter()
            self._waiting.append(waiter)
        waiter.served.acquire(timeout=max(timeout_s, 0.0))
        with self._lock:
            if waiter.view is not None:
                return waiter.view
            self._waiting.remove(waiter)
        raise Overloaded(
            f"all {self.count_max} buffers of {self.buffer_bytes} bytes were in use for {timeout_s:g} s",
            retry_after_s=1,
        )

    def _make(self) -> mmap.mmap:
        if not has_room(self.buffer_bytes):
            raise Overloaded(f"no memory for a buffer of {self.buffer_bytes} bytes", retry_after_s=1)
        try:
            return mmap.mmap(-1, self.buffer_bytes)
        except (OSError, MemoryError) as error:
            raise Overloaded(
                f"no memory for a buffer of {self.buffer_bytes} bytes: {error}", retry_after_s=1
            ) from error

    def release(self, view: memoryview) -> None:
        """Give back what acquire() returned: the same object, once."""
        with self._lock:
            lent, memory = self._held.pop(id(view), (None, None))
            assert memory is not None, "released twice, or not a buffer of this pool"
            assert lent is view
            if self._waiting:
                waiter = self._waiting.popleft()
                waiter.view = self._lend(memory)
                waiter.served.release()
            else:
                self._idle.append(_Idle(memory))

    def trim(self, idle_s: float) -> int:
        """Give the memory of buffers that nobody used for `idle_s` back to the system; the number of buffers
        dropped."""
        oldest = time.monotonic() - idle_s
        with self._lock:
            kept = [idle for idle in self._idle if idle.since > oldest]
            dropped = len(self._idle) - len(kept)
            # Dropping the last reference unmaps; a slice that somebody wrongly kept would keep its memory, not crash.
            self._idle = kept
        return dropped

    @property
    def in_use(self) -> int:
        """Buffers that are lent at this moment."""
        return len(self._held)

    @property
    def allocated(self) -> int:
        """Buffers that hold memory at this moment, lent or idle."""
        with self._lock:
            return len(self._held) + len(self._idle)

    def _lend(self, memory: mmap.mmap) -> memoryview:
        # A new view each time: a late second release of an old one is then told apart from the present holder's.
        view = memoryview(memory)
        self._held[id(view)] = (view, memory)
        return view


class Trimmable(Protocol):
    def trim(self, idle_s: float) -> object:
        """Give memory back that nobody used for `idle_s`; raises nothing."""
        ...


class IdleTrim:
    """A thread that lets pools give back what nobody has used for `idle_s`."""

    def __init__(self, *pools: Trimmable, every_s: float = 10.0, idle_s: float = 30.0) -> None:
        self._pools = pools
        self._every_s = every_s
        self._idle_s = idle_s
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="trim-buffers", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self, timeout_s: float = 5.0) -> None:
        """End the thread, which start() has started."""
        self._stopped.set()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while not self._stopped.wait(self._every_s):
            for pool in self._pools:
                pool.trim(self._idle_s)


class _Waiter:
    __slots__ = ("served", "view")

    def __init__(self) -> None:
        self.served = threading.Lock()
        self.served.acquire()
        self.view: memoryview | None = None


class _Idle:
    __slots__ = ("memory", "since")

    def __init__(self, memory: mmap.mmap) -> None:
        self.memory = memory
        self.since = time.monotonic()
