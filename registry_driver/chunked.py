"""ChunkedDriver: cuts streams into chunks of a fixed size, several in flight at once, and puts them together again.

The two directions live in writing.py and reading.py; this file holds the settings and what both share.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass

from chunkserver.interface import CHUNK_BYTES_MAX
from imageserver.interface import ChunkRef, ImageStore
from metaserver.interface import Fragment
from native.digest import Digest
from registry_driver.driver import ByteSource, WriteProgress
from registry_driver.reading import PieceReader
from registry_driver.writing import StreamWriter
from wire.buffers import BufferPool
from wire.threads import WorkerThreads


@dataclass(frozen=True, slots=True)
class DriverLimits:
    """`chunk_bytes`: where streams are cut. `write_window`, `read_window`: chunks resp. pieces in flight per stream.
    `read_piece_bytes`: how much is read at once; None, and at most: as much as a chunk has, which saves round trips.
    `record_bytes`, `record_s`: after how much a durable prefix is recorded. `buffer_wait_s`: for a buffer when the pool
    is empty, then Overloaded. `chunk_wait_s`: for a chunk in flight, then DeadlineExceeded; longer than an ImageStore's
    own deadlines (imageserver.client: total_s)."""

    chunk_bytes: int = 4 * 1024 * 1024
    write_window: int = 4
    read_window: int = 4
    read_piece_bytes: int | None = None
    record_bytes: int = 64 * 1024 * 1024
    record_s: float = 1.0
    buffer_wait_s: float = 20.0
    chunk_wait_s: float = 60.0

    def __post_init__(self) -> None:
        if not 1 <= self.chunk_bytes <= CHUNK_BYTES_MAX:
            raise ValueError(f"chunk_bytes must be between 1 and {CHUNK_BYTES_MAX}, not {self.chunk_bytes}")
        if self.piece_bytes < 1 or self.write_window < 1 or self.read_window < 1:
            raise ValueError("read_piece_bytes, write_window and read_window must be at least 1")

    @property
    def piece_bytes(self) -> int:
        """How much is read at once."""
        return self.chunk_bytes if self.read_piece_bytes is None else min(self.read_piece_bytes, self.chunk_bytes)


class ChunkedDriver:
    """A StorageDriver over an ImageStore. Memory: what `pool` gives, plus at most SMALL_BYTES per stream.

    `executor` runs puts and reads for all streams (its number of threads bounds them; made here when None); hashing
    has threads of its own, one per core, so that no slow ChunkServer can hold it up.
    """

    def __init__(
        self,
        images: ImageStore,
        pool: BufferPool,
        limits: DriverLimits | None = None,
        *,
        executor: Executor | None = None,
        threads_max: int = 32,
    ) -> None:
        self._limits = limits or DriverLimits()
        if pool.buffer_bytes < self._limits.chunk_bytes:
            raise ValueError(
                f"the pool's buffers have {pool.buffer_bytes} bytes, too few for chunks of {self._limits.chunk_bytes}"
            )
        self._images = images
        self._pool = pool
        self._own: list[ThreadPoolExecutor] = []
        self._executor = executor or self._owned(threads_max, "chunk")
        self._hashers = self._owned(max(2, os.cpu_count() or 2), "hash")

    def write_stream(
        self,
        source: ByteSource,
        *,
        offset: int,
        digest: Digest,
        record: Callable[[WriteProgress], None],
    ) -> WriteProgress:
        writer = StreamWriter(
            self._images,
            self._pool,
            self._limits,
            self._executor,
            self._hashers,
            offset=offset,
            digest=digest,
            record=record,
        )
        return writer.write(source)

    def read_stream(self, fragments: Sequence[Fragment], offset: int, length: int) -> Generator[memoryview, None, None]:
        return PieceReader(self._images, self._pool, self._limits, self._executor).read(fragments, offset, length)

    def delete_fragments(self, fragments: Sequence[Fragment]) -> list[Fragment]:
        if not fragments:
            return []
        left = {ref.fid for ref in self._images.delete_chunks([ref_of(fragment) for fragment in fragments])}
        return [fragment for fragment in fragments if fragment.fid in left]

    def close(self) -> None:
        """Give the threads back; streams that still run end with errors."""
        for executor in self._own:
            executor.shutdown(wait=False)

    def _owned(self, threads_max: int, name: str) -> ThreadPoolExecutor:
        executor = WorkerThreads(threads_max, thread_name_prefix=name)
        executor.start_one()
        self._own.append(executor)
        return executor


def ref_of(fragment: Fragment) -> ChunkRef:
    return ChunkRef(fragment.fid, fragment.group_id, fragment.length, fragment.crc32c)
