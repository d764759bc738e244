"""A layout on the way to an archive: stays when a run is cut off, goes when it is through."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from speedy.transfer.errors import TransferError
from speedy.transfer.layout import Layout


@contextmanager
def staging(directory: Path) -> Iterator[Layout]:
    """Removed at the end of a block that raises nothing. Raises TransferError while another run uses it."""
    layout = Layout.create(directory)
    lock = os.open(directory / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise TransferError(f"another run is at work in {directory}") from error
        yield layout
        shutil.rmtree(directory, ignore_errors=True)
    finally:
        os.close(lock)
