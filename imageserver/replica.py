"""A ChunkServer as an ImageServer talks to it: short patience for reads, more for writes."""

from __future__ import annotations

from chunkserver.interface import Buffer, ChunkInfo, ChunkStore, StoreStat


class ReplicaStore:
    """A ChunkStore made of two of the same server, whose time-outs differ.

    A read that takes long goes on at another replica, so it should fail early. A write that fails early burns a fid and
    goes to another group, while a busy disk may well need seconds for its fdatasync.
    """

    def __init__(self, reads: ChunkStore, writes: ChunkStore) -> None:
        self._reads = reads
        self._writes = writes

    def put(self, fid: int, payload: Buffer, crc32c: int) -> None:
        self._writes.put(fid, payload, crc32c)

    def read_into(self, fid: int, offset: int, buffer: bytearray | memoryview) -> int:
        return self._reads.read_into(fid, offset, buffer)

    def info(self, fid: int) -> ChunkInfo:
        return self._reads.info(fid)

    def delete(self, fid: int) -> bool:
        return self._writes.delete(fid)

    def list_chunks(self, after_fid: int = 0, limit: int = 1000) -> list[ChunkInfo]:
        return self._reads.list_chunks(after_fid, limit)

    def stat(self) -> StoreStat:
        return self._reads.stat()
