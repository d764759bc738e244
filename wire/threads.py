"""Worker threads that go on with those they have when the machine gives no more."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor


class WorkerThreads(ThreadPoolExecutor):
    """A ThreadPoolExecutor for machines at their limit of processes.

    The standard one raises when a thread cannot be started, and leaves the work in its queue: a thread that becomes
    free does it later, when the caller has long taken back the buffers that the work uses.
    """

    def _adjust_thread_count(self) -> None:
        try:
            super()._adjust_thread_count()
        except RuntimeError:
            if not self._threads:
                self._work_queue.get_nowait()  # submit() raises: nobody may do it later
                raise
