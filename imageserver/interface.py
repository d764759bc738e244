"""Contract of an ImageServer: store a chunk on every replica of a group that it chooses; read it from any good one.

Satisfied by imageserver.core.LocalImageStore (placement over ChunkStores) and imageserver.client.HttpImageStore (over
several ImageServers, any of which may die); both pass tests/contracts/test_image_store.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from chunkserver.interface import Buffer


@dataclass(frozen=True, slots=True)
class ChunkRef:
    """Where a chunk is and what its bytes must be. Stored with the fragment; enough to read it without asking
    anybody."""

    fid: int
    group_id: int
    length: int
    crc32c: int


class ImageStore(Protocol):
    """All methods are thread-safe. Buffers are used during the call only. All raise Unavailable while no group table is
    known, or no ImageServer answers."""

    def put_chunk(self, payload: Buffer, crc32c: int) -> ChunkRef:
        """Write `payload` to every member of one group under a new fid; returns when it is durable on all of them.

        A failed replica burns the fid and another group is tried, within a deadline; repeating the call stores the
        chunk again under another fid. Raises ChecksumMismatch, PayloadTooLarge, NoGroupAvailable, StorageFull (every
        group is full, or the ChunkMaster's database), Overloaded, DeadlineExceeded, Unavailable (no fids are left and
        no ChunkMaster gives new ones).
        """
        ...

    def read_chunk_into(self, ref: ChunkRef, offset: int, buffer: bytearray | memoryview) -> int:
        """Fill `buffer` with the chunk's bytes from `offset` on, from any live replica, verified before this returns;
        the CRC-32C of what is in `buffer` now.

        A whole-chunk read is verified against `ref.crc32c`; a part of it against its block checksums where it is
        stored and a checksum of the part on the way. Raises ChunkNotFound (every member is reachable and none has
        it), ChunkDamaged (every member is reachable and none has a good copy), ChunkUnreadable (no good copy could be
        read just now), RangeNotSatisfiable.
        """
        ...

    def delete_chunks(self, refs: Sequence[ChunkRef]) -> list[ChunkRef]:
        """Delete chunks on every member of their groups; returns those that could not be deleted everywhere (repeat
        later)."""
        ...

    def check(self) -> None:
        """Return if chunks can be written just now (a group takes writes, fids can be had); else raise what stands in
        the way."""
        ...
