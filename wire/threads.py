"""Worker threads that go on with those they have when the machine gives no more."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from wire.memory import FIRST_THREAD_LEAVES_BYTES, STACK_BYTES, THREADS_LEAVE_BYTES, has_room


class WorkerThreads(ThreadPoolExecutor):
    """A ThreadPoolExecutor for machines at their limit of processes.

    The standard one raises when a thread cannot be started, and leaves the work in its queue: a thread that becomes
    free does it later, when the caller has long taken back the buffers that the work uses.
    """

    def start_one(self) -> None:
        """Have a thread from now on, so that work which comes when no more can be had is late, and not refused: other
        pools keep what they took. Where none is to be had now, the first work asks again. To be called after a fork."""
        with suppress(RuntimeError):
            self.submit(int)

    def _adjust_thread_count(self) -> None:
        if self._idle_semaphore.acquire(timeout=0):
            return  # as in the standard one: a thread is idle
        if len(self._threads) >= self._max_workers:
            return  # the same; and nobody is told of memory that is not asked for
        try:
            # One that finds no memory to begin with would be waited for without end.
            if not has_room(STACK_BYTES, THREADS_LEAVE_BYTES if self._threads else FIRST_THREAD_LEAVES_BYTES):
                raise RuntimeError("no memory for another thread")
            super()._adjust_thread_count()
        except RuntimeError:
            if not self._threads:
                self._work_queue.get_nowait()  # submit() raises: nobody may do it later
                raise
