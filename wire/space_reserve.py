"""Space that a server keeps back for itself, in files of its data directory, for the day when the disk is full.

The chunk store leaves a reserve free, but others fill disks too. Then nothing could be deleted, since that is written
down (in the store's delete logs, in the embedded server's database), and a server that was stopped would not start
again. So some MiB stand in two files: one goes away when the disk is full, for deletes, the other one when the server
starts; both come back when there is space.
"""

from __future__ import annotations

import logging
import os
import threading
from pathlib import Path

log = logging.getLogger("speedy.space_reserve")

#: for deletes on a full disk
RESERVE_FILE = "space.reserve"
RESERVE_BYTES = 4 * 1024 * 1024

#: for a start on one; not for anything before, however long the disk is full
START_FILE = "start.reserve"
_START_BYTES = 1024 * 1024

FILES = (RESERVE_FILE, START_FILE)

#: below so much free space the reserve is given up, and from so much on it is taken again
_LOW_BYTES = 1024 * 1024
_HIGH_BYTES = 4 * RESERVE_BYTES

_LOOK_S = 2.0


def give_up(directory: Path, *names: str) -> bool:
    """Give the space of these files to whoever needs it now. False when there was none. Raises OSError."""
    given = False
    for name in names:
        path = directory / name
        given = given or path.exists()
        path.unlink(missing_ok=True)
    return given


def take(directory: Path) -> None:
    """Keep the space back, if the disk has it to spare. Raises OSError."""
    for name, size in ((START_FILE, _START_BYTES), (RESERVE_FILE, RESERVE_BYTES)):
        path = directory / name
        if path.exists() or _free_bytes(directory) < _HIGH_BYTES:
            continue
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(file, 0, size)
        except OSError:
            path.unlink()
            raise
        finally:
            os.close(file)


class SpaceReserve:
    """Takes the reserve of a data directory and gives it up, as the disk fills and empties. One thread."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="space-reserve", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self, timeout_s: float = 5.0) -> None:
        """Ends the thread, which start() has started. The reserve stays."""
        self._stopped.set()
        self._thread.join(timeout_s)

    @property
    def given_up(self) -> bool:
        """What is left of the disk is for deletes. (A disk that cannot be asked has other troubles than being full.)"""
        try:
            return not (self._directory / RESERVE_FILE).exists() and _free_bytes(self._directory) < _HIGH_BYTES
        except OSError:
            return False

    def _run(self) -> None:
        while True:
            try:
                self._look()
            except OSError as exc:
                log.warning("the space reserve cannot be kept: %s", exc)
            if self._stopped.wait(_LOOK_S):
                return

    def _look(self) -> None:
        if _free_bytes(self._directory) >= _LOW_BYTES:
            take(self._directory)
        elif give_up(self._directory, RESERVE_FILE):
            log.warning("the disk is full: the reserve of %d bytes is free for deletes", RESERVE_BYTES)


def _free_bytes(directory: Path) -> int:
    space = os.statvfs(directory)
    return space.f_bavail * space.f_frsize
