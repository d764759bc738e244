"""A ChunkServer as an ImageServer talks to it: short patience for reads, more for writes."""

from __future__ import annotations

from chunkserver.interface import Buffer, ChunkInfo, ChunkStore, StoreStat
from wire.pulse import Pulse


class ReplicaStore:
    """A ChunkStore made of two of the same server, whose time-outs differ.

    A read that takes long goes on at another replica, so it should fail early. A write that fails early burns a fid and
    goes to another group, while a busy disk may well need seconds for its fdatasync. Its pulse tells such a disk from a
    server that stands still: nobody waits for that one, and nothing is sent to it until it answers again.
    """

    def __init__(self, reads: ChunkStore, writes: ChunkStore, pulse: Pulse) -> None:
        self._reads = reads
        self._writes = writes
        self._pulse = pulse

    def put(self, fid: int, payload: Buffer, crc32c: int) -> None:
        with self._pulse.watched():
            self._writes.put(fid, payload, crc32c)

    def read_into(self, fid: int, offset: int, buffer: bytearray | memoryview) -> int:
        with self._pulse.watched():
            return self._reads.read_into(fid, offset, buffer)

    def info(self, fid: int) -> ChunkInfo:
        return self._reads.info(fid)

    def delete(self, fid: int) -> bool:
        with self._pulse.watched():
            return self._writes.delete(fid)

    def list_chunks(self, after_fid: int = 0, limit: int = 1000) -> list[ChunkInfo]:
        return self._reads.list_chunks(after_fid, limit)

    def stat(self) -> StoreStat:
        return self._reads.stat()
