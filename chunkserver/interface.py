"""Contract of a ChunkServer: it keeps chunks (write-once byte strings named by a fid) on one data directory.

Satisfied by chunkserver.core.LocalChunkStore (in process, over the C engine) and chunkserver.client.HttpChunkStore;
both pass tests/contracts/test_chunk_store.py.

Terms. fid: unsigned 64-bit number, never 0, never reused. crc32c: CRC-32C (Castagnoli, RFC 3720) of the payload as an
unsigned 32-bit number. A buffer passed in is only used during the call: no implementation keeps a reference to it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

#: largest payload of one chunk, bytes
CHUNK_BYTES_MAX = 64 * 1024 * 1024

Buffer = bytes | bytearray | memoryview

StoreState = Literal["rw", "ro_full", "failed"]


@dataclass(frozen=True, slots=True)
class ChunkInfo:
    """A stored chunk. `volume` and `offset` (bytes) say where in this server's data directory its needle lies."""

    fid: int
    length: int
    crc32c: int
    volume: int
    offset: int


@dataclass(frozen=True, slots=True)
class StoreStat:
    """What one ChunkServer tells of itself; sizes in bytes. `fid_max` is the highest fid it has ever seen."""

    server_id: str
    state: StoreState
    chunks: int
    live_bytes: int
    dead_bytes: int
    free_bytes: int
    total_bytes: int
    volumes: int
    volumes_failed: int
    fid_max: int


class ChunkStore(Protocol):
    """All methods are thread-safe and harmless to repeat."""

    def put(self, fid: int, payload: Buffer, crc32c: int) -> None:
        """Store `payload` under `fid`; returns once it is durable (written and fdatasync'ed).

        The same fid with the same bytes again succeeds. Raises ChecksumMismatch when the payload's CRC-32C is not
        `crc32c`, ChunkConflict when other bytes are stored under the fid, BadRequest for fid 0, PayloadTooLarge,
        StorageFull, Overloaded (admission bound), Unavailable (the disk failed).
        """
        ...

    def read_into(self, fid: int, offset: int, buffer: bytearray | memoryview) -> None:
        """Fill `buffer` exactly with the chunk's bytes from `offset` on, verified before this returns.

        Raises ChunkNotFound, RangeNotSatisfiable (asks beyond the end), ChunkUnreadable (stored bytes are damaged).
        """
        ...

    def info(self, fid: int) -> ChunkInfo:
        """Raises ChunkNotFound."""
        ...

    def delete(self, fid: int) -> bool:
        """Remove a chunk durably; True if it was there."""
        ...

    def list_chunks(self, after_fid: int = 0, limit: int = 1000) -> list[ChunkInfo]:
        """Chunks with fid > after_fid in ascending order, at most `limit` (bounded by 10,000)."""
        ...

    def stat(self) -> StoreStat:
        """Space and state, as told to the ChunkMaster in heartbeats."""
        ...
