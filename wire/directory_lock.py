"""A data directory is one process's at a time: a file in it is flock'ed, and holds that process's id for people."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path
from typing import Final

from wire import space_reserve
from wire.errors import Conflict

_POLL_S: Final = 0.05
_PROCESS_ID_BYTES_MAX: Final = 32


def lock(directory: Path, name: str, *, wait_s: float = 0.0) -> int:
    """Hold `directory` by its file `name` until the descriptor that is returned is closed, in processes forked from
    this one as well. The space that is kept back for a start on a full disk is given up.

    Waits up to `wait_s` for another process to leave. Raises Conflict, which names it, when it stays; OSError.
    """
    lock_fd = os.open(directory / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        _wait_for(lock_fd, directory, time.monotonic() + wait_s)
        space_reserve.give_up(directory, *space_reserve.FILES)  # starting writes too, if only this process id
        os.ftruncate(lock_fd, 0)
        os.pwrite(lock_fd, f"{os.getpid()}\n".encode(), 0)
        return lock_fd
    except BaseException:
        os.close(lock_fd)
        raise


def _wait_for(lock_fd: int, directory: Path, deadline_s: float) -> None:
    while True:
        try:
            fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError as exc:
            if time.monotonic() >= deadline_s:
                holder = os.pread(lock_fd, _PROCESS_ID_BYTES_MAX, 0).decode("ascii", "replace").strip() or "unknown"
                raise Conflict(
                    f"data directory {directory} is in use by another process (process id {holder})"
                ) from exc
            time.sleep(_POLL_S)
