"""A process of many threads under a limit on its address space (ulimit -v, RLIMIT_AS).

There the stacks of threads and the arenas of malloc count, 8 and 64 MiB each although next to nothing of them is used;
and where the last bytes are gone anything fails: a log line, a thread that has just been started (Thread.start() then
waits for it for ever), the main loop. So two things take part of the room only while enough of it is left for the
rest: large buffers (wire.buffers) and threads (wire.threads). Without a limit nothing here changes anything.
"""

from __future__ import annotations

import ctypes
import logging
import mmap
import resource
import threading
import time

log = logging.getLogger("speedy.memory")

#: left for everything that is small
HEADROOM_BYTES = 48 * 1024 * 1024

#: left by threads, which never give back what they took: buffers must still be had beside them
THREADS_LEAVE_BYTES = 2 * HEADROOM_BYTES

#: left by the first thread of a pool, without which its work cannot be done at all: less than buffers leave, so that
#: it is had also when they have taken what they may
FIRST_THREAD_LEAVES_BYTES = HEADROOM_BYTES // 2

#: a thread's stack; nothing here recurses deeply, and Python's own frames are not on it
STACK_BYTES = 1024 * 1024

#: when who found no memory may come again
RETRY_AFTER_S = 2

#: one: a thread that gets its own would take 64 MiB at once, whatever headroom is left
_ARENAS_MAX = 1
_M_ARENA_MAX = -8  # malloc.h

#: time between two lines that tell of the same want
_TELL_EVERY_S = 10.0


class _Told:
    """When the last line was written, so that a want is not told for each request."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last_s: float | None = None

    def due(self) -> bool:
        now_s = time.monotonic()
        with self._lock:
            if self._last_s is not None and now_s - self._last_s < _TELL_EVERY_S:
                return False
            self._last_s = now_s
            return True


_told = _Told()


def limit_bytes() -> int | None:
    """The limit on this process's address space; None: there is none."""
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    return None if soft == resource.RLIM_INFINITY else soft


def live_with_limit() -> None:
    """To be called once in a process that serves, before it starts threads: where there is a limit, stacks and arenas
    are made small, so that the room is for what is used."""
    limit = limit_bytes()
    if limit is None:
        return
    threading.stack_size(STACK_BYTES)
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # glibc's; others have no arenas
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, _ARENAS_MAX)
    log.info("the address space is limited to %d MiB: buffers and threads are had while there is room", limit >> 20)


def has_room(count_bytes: int, leave_bytes: int = HEADROOM_BYTES) -> bool:
    """Whether `count_bytes` can be had and `leave_bytes` besides. Another thread may be faster: the headroom is for
    that too."""
    if limit_bytes() is None:
        return True
    try:
        mmap.mmap(-1, count_bytes + leave_bytes, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, 0).close()
    except (OSError, MemoryError):
        tell(f"{count_bytes} bytes")
        return False
    return True


def tell(what: str) -> None:
    """One line in a while for a want of memory, whoever has it."""
    if _told.due():
        limit = limit_bytes()
        where = "" if limit is None else f" (the address space is limited to {limit >> 20} MiB)"
        log.warning("no memory for %s%s: requests wait or are refused until there is some", what, where)
