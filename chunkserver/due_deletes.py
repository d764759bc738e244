"""DueDeletes: what was deleted while a disk was away or failed. It is deleted there before that disk serves again.

    <data>/disk-<number>.deleted    records of 12 bytes, little-endian: fid (8), CRC-32C of these (4)

A record counts if and only if its CRC is right: one that a crash has cut was not acknowledged. The file goes when all
of it has been done; of a disk that never comes back it stays, and may be removed by hand.
"""

from __future__ import annotations

import errno
import logging
import os
import struct
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from native.checksum import crc32c
from native.engine import Engine
from native.errors import DiskFull, StoreFailed

log = logging.getLogger("speedy.chunkserver")

_RECORD: Final = struct.Struct("<QI")
_PIECE: Final = 4096  # records read at once
#: deletes at once, which share their syncs
_AT_ONCE: Final = 16


class DueDeletes:
    """Of one disk. Thread-safe. The file is there from the first note on."""

    def __init__(self, data: Path, disk: int) -> None:
        self._path = data / f"disk-{disk}.deleted"
        self._lock = threading.Lock()  # guards what follows
        self._file = -1
        self._end = 0
        self._failed = False

    def note(self, fid: int) -> None:
        """Returns when it is durable. Raises DiskFull, or StoreFailed: after an I/O error until the next start."""
        with self._lock:
            if self._failed:
                raise StoreFailed(f"{self._path} failed before and takes no more records")
            try:
                if self._file < 0:
                    self._open()
                body = struct.pack("<Q", fid)
                if os.pwrite(self._file, _RECORD.pack(fid, crc32c(body)), self._end) != _RECORD.size:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                os.fdatasync(self._file)
            except OSError as exc:
                if exc.errno in (errno.ENOSPC, errno.EDQUOT):
                    raise DiskFull(f"{self._path}: {exc}") from exc
                self._failed = True  # what a second sync says would mean nothing
                raise StoreFailed(f"{self._path}: {exc}") from exc
            self._end += _RECORD.size

    def settle(self, engine: Engine) -> None:
        """Delete in the disk's store what is on record. Raises EngineError; then nothing is forgotten."""
        try:
            with ThreadPoolExecutor(_AT_ONCE) as pool, self._path.open("rb") as file:
                done = 0
                for fids in _pieces(file.fileno()):
                    done += sum(pool.map(engine.delete, fids))
            log.info("%s: %d chunks were still there and are deleted", self._path, done)
            self._path.unlink()
            # Before anything is put: a file that came back would delete what is acknowledged from now on.
            self._sync_directory()
        except FileNotFoundError:
            return
        except OSError as exc:
            raise StoreFailed(f"{self._path}: {exc}") from exc

    def close(self) -> None:
        with self._lock:
            self._failed = True
            if self._file >= 0:
                os.close(self._file)
                self._file = -1

    def _open(self) -> None:
        file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            self._sync_directory()
            self._end = os.fstat(file).st_size // _RECORD.size * _RECORD.size
        except BaseException:
            os.close(file)
            raise
        self._file = file  # from now on it is not looked for again, so the directory must have it

    def _sync_directory(self) -> None:
        directory = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def _pieces(file: int) -> Iterator[list[int]]:
    at = 0
    while piece := os.pread(file, _PIECE * _RECORD.size, at):
        at += len(piece)
        whole = piece[: len(piece) // _RECORD.size * _RECORD.size]
        yield [fid for fid, crc in _RECORD.iter_unpack(whole) if fid and crc == crc32c(struct.pack("<Q", fid))]
