"""An ImageStore in memory whose faults are switched by files, so that a test can reach them in another process."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Sequence
from pathlib import Path

from chunkserver.interface import Buffer
from imageserver.interface import ChunkRef
from native.checksum import crc32c
from wire.errors import ChunkDamaged, ChunkNotFound, ChunkUnreadable, StorageFull


class MemoryImageStore:
    """`faults` is a directory; the file `full` in it makes the store full, `full-after` full once it holds as many
    chunks as it says, `unreadable` lets every read fail, `damaged` those of the fids in it. It counts in the files
    `chunks` (held) and `reads`."""

    def __init__(self, faults: Path) -> None:
        self._faults = faults
        self._lock = threading.Lock()
        self._fids = itertools.count(1)
        self._chunks: dict[int, bytes] = {}

    def put_chunk(self, payload: Buffer, crc32c: int) -> ChunkRef:
        with self._lock:
            self.check()
            fid = next(self._fids)
            self._chunks[fid] = bytes(payload)
            self._tell("chunks", len(self._chunks))
        return ChunkRef(fid=fid, group_id=1, length=len(payload), crc32c=crc32c)

    def read_chunk_into(self, ref: ChunkRef, offset: int, buffer: bytearray | memoryview) -> int:
        if (self._faults / "unreadable").exists():
            raise ChunkUnreadable("no good copy", fid=ref.fid)
        if str(ref.fid) in self._told("damaged").split():
            raise ChunkDamaged("no good copy on any member", fid=ref.fid)
        with self._lock:
            payload = self._chunks.get(ref.fid)
            self._tell("reads", int(self._told("reads") or 0) + 1)
        if payload is None:
            raise ChunkNotFound("no copy", fid=ref.fid)
        assert crc32c(payload) == ref.crc32c
        buffer[:] = payload[offset : offset + len(buffer)]
        return crc32c(buffer)

    def delete_chunks(self, refs: Sequence[ChunkRef]) -> list[ChunkRef]:
        with self._lock:
            for ref in refs:
                self._chunks.pop(ref.fid, None)
            self._tell("chunks", len(self._chunks))
        return []

    def check(self) -> None:
        full_after = self._told("full-after")
        if (self._faults / "full").exists() or (full_after and len(self._chunks) >= int(full_after)):
            raise StorageFull("every group is full")

    def _told(self, name: str) -> str:
        try:
            return (self._faults / name).read_text()
        except FileNotFoundError:
            return ""

    def _tell(self, name: str, count: int) -> None:
        (self._faults / name).write_text(str(count))
