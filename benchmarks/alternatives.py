"""What one would write instead of the engine: three ways to keep chunks durably, each with the few lines it takes.

All of them answer after the chunk is on the disk, as the engine does. None of them verifies what it reads, or gives
space back while it runs.
"""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from typing import Protocol

from native.values import Buffer


class Store(Protocol):
    """Puts return when the chunk is durable."""

    name: str

    def put(self, fid: int, payload: Buffer) -> None: ...

    def get(self, fid: int) -> bytes: ...

    def close(self) -> None: ...


class FilePerChunk:
    """One file for each chunk; file and name synced."""

    name = "one file per chunk, fsync"

    def __init__(self, directory: Path) -> None:
        self._directory = directory / "files"
        self._directory.mkdir()
        self._file = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def put(self, fid: int, payload: Buffer) -> None:
        file = os.open(self._directory / str(fid), os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.write(file, payload)
            os.fsync(file)
        finally:
            os.close(file)
        os.fsync(self._file)

    def get(self, fid: int) -> bytes:
        return (self._directory / str(fid)).read_bytes()

    def close(self) -> None:
        os.close(self._file)


class SqliteBlobs:
    """Rows of one table; a transaction for each chunk, WAL and synchronous=FULL."""

    name = "SQLite blobs, WAL, FULL"

    def __init__(self, directory: Path) -> None:
        self._connection = sqlite3.connect(directory / "chunks.sqlite", isolation_level=None, check_same_thread=False)
        self._connection.execute("PRAGMA journal_mode=WAL")
        self._connection.execute("PRAGMA synchronous=FULL")
        self._connection.execute("CREATE TABLE chunks (fid INTEGER PRIMARY KEY, payload BLOB NOT NULL)")

    def put(self, fid: int, payload: Buffer) -> None:
        self._connection.execute("INSERT INTO chunks VALUES (?, ?)", (fid, payload))

    def get(self, fid: int) -> bytes:
        found: bytes = self._connection.execute("SELECT payload FROM chunks WHERE fid = ?", (fid,)).fetchone()[0]
        return found

    def close(self) -> None:
        self._connection.close()


class AppendedFile:
    """One growing file, synced after each chunk; places in a dict that dies with the process."""

    name = "Python append + dict"

    def __init__(self, directory: Path) -> None:
        self._file = os.open(directory / "appended", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._places: dict[int, tuple[int, int]] = {}
        self._tail = 0

    def put(self, fid: int, payload: Buffer) -> None:
        length = os.pwrite(self._file, payload, self._tail)
        os.fdatasync(self._file)
        self._places[fid] = (self._tail, length)
        self._tail += length

    def get(self, fid: int) -> bytes:
        offset, length = self._places[fid]
        return os.pread(self._file, length, offset)

    def close(self) -> None:
        os.close(self._file)


ALTERNATIVES: tuple[type[FilePerChunk] | type[SqliteBlobs] | type[AppendedFile], ...] = (
    FilePerChunk,
    SqliteBlobs,
    AppendedFile,
)
