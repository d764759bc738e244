"""A stream on its way out of the store: cut into pieces, a window of them read ahead, handed out in order.

Why this cannot deadlock on a small pool: a stream waits for a buffer only while it holds none. Once it has the buffer
of its next piece it can go on to the end of that piece and give it back; further buffers (read-ahead) are taken only
when they are free at once. And a piece whose task no thread has begun is read by the stream's own thread, so that
full threads cannot hold it up either.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Executor, Future, wait
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from imageserver.interface import ChunkRef, ImageStore
from metaserver.interface import Fragment
from wire.buffers import BufferPool
from wire.context import run_in_context
from wire.errors import DeadlineExceeded, Overloaded, RangeNotSatisfiable

if TYPE_CHECKING:
    from registry_driver.chunked import DriverLimits

#: up to here a stream that is one piece uses memory of its own instead of a large buffer
SMALL_BYTES = 64 * 1024

#: how long a closed stream waits for reads that still use its buffers; those that take longer give them back themselves
SETTLE_S = 5.0


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes [start, start + length) of the chunk `ref`."""

    ref: ChunkRef
    start: int
    length: int


@dataclass(slots=True)
class _Reading:
    """A piece with its buffer; `task` is None when the stream's own thread is to read it."""

    piece: Piece
    buffer: memoryview
    task: Future[None] | None

    @property
    def view(self) -> memoryview:
        return self.buffer[: self.piece.length]


class PieceReader:
    """Thread-safe; keeps nothing between streams."""

    def __init__(self, images: ImageStore, pool: BufferPool, limits: DriverLimits, executor: Executor) -> None:
        self._images = images
        self._pool = pool
        self._limits = limits
        self._executor = executor

    def read(self, fragments: Sequence[Fragment], offset: int, length: int) -> Generator[memoryview, None, None]:
        """See StorageDriver.read_stream. A bad range raises here, before the first piece is asked for."""
        size = fragments[-1].offset + fragments[-1].length if fragments else 0
        if offset < 0 or length < 0 or offset + length > size:
            raise RangeNotSatisfiable(f"bytes [{offset}, {offset + length}) of a file of {size}", length=size)
        pieces = cut(fragments, offset, length, self._limits.piece_bytes)
        if length <= SMALL_BYTES:
            return self._read_small(pieces)
        return _ReadAhead(self._images, self._pool, self._limits, self._executor, pieces).run()

    def _read_small(self, pieces: Iterator[Piece]) -> Generator[memoryview, None, None]:
        for piece in pieces:
            view = memoryview(bytearray(piece.length))
            self._images.read_chunk_into(piece.ref, piece.start, view)
            yield view


class _ReadAhead:
    """One stream of several pieces; used by one thread."""

    def __init__(
        self, images: ImageStore, pool: BufferPool, limits: DriverLimits, executor: Executor, pieces: Iterator[Piece]
    ) -> None:
        self._images = images
        self._pool = pool
        self._limits = limits
        self._executor = executor
        self._pieces = pieces
        self._next = next(pieces, None)
        self._window: deque[_Reading] = deque()  # the first one is the next to be handed out

    def run(self) -> Generator[memoryview, None, None]:
        try:
            while self._next is not None or self._window:
                self._fill_window()
                reading = self._window[0]
                self._finish(reading)
                yield reading.view
                self._window.popleft()
                self._pool.release(reading.buffer)
        finally:
            self._give_back()

    def _fill_window(self) -> None:
        while self._next is not None and len(self._window) < self._limits.read_window:
            if not self._window:
                buffer = self._pool.acquire(self._limits.buffer_wait_s)
                # This thread reads it itself, while others read ahead.
                self._window.append(_Reading(self._next, buffer, None))
            else:
                # Windows shrink under load: the pool's last quarter is for streams that hold nothing yet.
                if self._pool.in_use * 4 > self._pool.count_max * 3:
                    return
                try:
                    buffer = self._pool.acquire(0.0)
                except Overloaded:
                    return
                reading = _Reading(self._next, buffer, None)
                self._window.append(reading)
                with suppress(RuntimeError):  # the driver is closing: this thread reads it then
                    reading.task = self._executor.submit(run_in_context(self._read), reading)
            self._next = next(self._pieces, None)

    def _finish(self, reading: _Reading) -> None:
        """Return when the piece's bytes are in its buffer, verified."""
        task = reading.task
        if task is None or task.cancel():
            reading.task = None
            self._read(reading)
            return
        try:
            task.result(self._limits.chunk_wait_s)
        except FutureTimeout:
            if not task.done():
                raise DeadlineExceeded(
                    f"fid {reading.piece.ref.fid} was not read within {self._limits.chunk_wait_s:g} s"
                ) from None
            raise

    def _read(self, reading: _Reading) -> None:
        self._images.read_chunk_into(reading.piece.ref, reading.piece.start, reading.view)

    def _give_back(self) -> None:
        readings = list(self._window)
        self._window.clear()
        running = [reading.task for reading in readings if reading.task is not None and not reading.task.cancel()]
        wait(running, timeout=SETTLE_S)
        for reading in readings:
            if reading.task is None or reading.task.done():
                self._pool.release(reading.buffer)
            else:
                reading.task.add_done_callback(partial(_release, self._pool, reading.buffer))


def _release(pool: BufferPool, buffer: memoryview, _: Future[None]) -> None:
    pool.release(buffer)


def cut(fragments: Sequence[Fragment], offset: int, length: int, piece_bytes: int) -> Iterator[Piece]:
    """The pieces of [offset, offset + length): never over a chunk's end nor over a multiple of `piece_bytes` within
    it, so that whole chunks are read whole and parts lie on the store's checksum blocks."""
    end = offset + length
    index = bisect_right(fragments, offset, key=lambda fragment: fragment.offset) - 1
    while offset < end:
        fragment = fragments[index]
        start = offset - fragment.offset
        stop = min(fragment.length, (start // piece_bytes + 1) * piece_bytes, end - fragment.offset)
        if stop > start:
            ref = ChunkRef(fragment.fid, fragment.group_id, fragment.length, fragment.crc32c)
            yield Piece(ref, start, stop - start)
            offset = fragment.offset + stop
        if offset >= fragment.offset + fragment.length:
            index += 1
