"""What the disk and the page cache themselves can do: the limits that the engine is measured against."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from native.checksum import crc32c

BLOCK_BYTES = 4096


def aligned(length: int) -> int:
    """`length` rounded up to whole blocks, as a batch of the engine takes them."""
    return -(-length // BLOCK_BYTES) * BLOCK_BYTES


@contextmanager
def preallocated(directory: Path, size: int) -> Iterator[int]:
    """A descriptor of a new file that has all its space already; gone afterwards."""
    path = directory / "raw.limit"
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(file, 0, size)
        os.fsync(file)
        yield file
    finally:
        os.close(file)
        path.unlink()


def synced_writes_per_s(directory: Path, payload: memoryview, batch_bytes: int, count: int) -> float:
    """Batches per second: pwrite and fdatasync of `batch_bytes` behind each other, one at a time."""
    with preallocated(directory, batch_bytes * count) as file:
        return count / synced_writes_s(file, 0, payload, batch_bytes, count)


def synced_writes_s(file: int, offset: int, payload: memoryview, batch_bytes: int, count: int) -> float:
    """Seconds for `count` such batches from `offset` on, in space that the file has already."""
    parts = [payload[:batch_bytes]] if batch_bytes <= len(payload) else _repeated(payload, batch_bytes)
    begin_s = time.monotonic()
    for number in range(count):
        written = os.pwritev(file, parts, offset + number * batch_bytes)
        assert written == batch_bytes, (written, batch_bytes)
        os.fdatasync(file)
    return time.monotonic() - begin_s


def _repeated(payload: memoryview, length: int) -> list[memoryview]:
    whole, rest = divmod(length, len(payload))
    return [payload] * whole + ([payload[:rest]] if rest else [])


def cached_reads_per_s(directory: Path, size: int, places: list[int], *, checked: bool) -> float:
    """Reads of `size` bytes per second from the page cache, with `checked` the CRC-32C of each one beside."""
    span = max(places) + size
    chunk = memoryview(os.urandom(1 << 20))
    with preallocated(directory, span) as file:
        for offset in range(0, span, len(chunk)):
            os.pwrite(file, chunk[: span - offset], offset)
        buffer = memoryview(bytearray(size))
        begin_s = time.monotonic()
        for offset in places:
            os.preadv(file, [buffer], offset)
            if checked:
                crc32c(buffer)
        return len(places) / (time.monotonic() - begin_s)
