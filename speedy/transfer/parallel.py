"""Several blobs at once, and how all of them end when one fails or somebody presses Ctrl-C."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait

from speedy.transfer.errors import Stopped
from speedy.transfer.patience import Stop

_LOOK_EVERY_S = 0.2


def run_all(tasks: Sequence[Callable[[], None]], jobs: int, stop: Stop, tell: Callable[[str], None]) -> None:
    """Runs all tasks, `jobs` at a time. The first error stops the others and is raised when they have ended.

    Ctrl-C stops all of them and raises KeyboardInterrupt; pressed again, it ends the process at once.
    """

    def guarded(task: Callable[[], None]) -> None:
        stop.check()
        try:
            task()
        except BaseException:
            stop.request()  # here, before this thread takes the next one
            raise

    interrupted = False
    with ThreadPoolExecutor(max_workers=jobs, thread_name_prefix="transfer") as pool:
        futures = [pool.submit(guarded, task) for task in tasks]
        waiting: set[Future[None]] = set(futures)
        while waiting:
            try:
                waiting = wait(waiting, timeout=_LOOK_EVERY_S, return_when=FIRST_EXCEPTION).not_done
            except KeyboardInterrupt:
                if interrupted:
                    os._exit(130)
                interrupted = True
                tell("Ending when the pieces on their way have arrived; Ctrl-C again ends at once.")
                stop.request()
    if interrupted:
        raise KeyboardInterrupt
    errors = [error for future in futures if (error := future.exception()) is not None]
    for error in sorted(errors, key=lambda error: isinstance(error, Stopped)):
        raise error
