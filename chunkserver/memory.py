"""MemoryChunkStore: a ChunkStore that forgets when the process ends. For tests and measurements of other rooms."""

from __future__ import annotations

import bisect
import threading

from chunkserver.checks import check_fid, check_list, check_payload, check_range
from chunkserver.interface import Buffer, ChunkInfo, StoreStat
from native.engine import crc32c as crc32c_of
from wire.errors import ChecksumMismatch, ChunkConflict, ChunkNotFound, StorageFull


class MemoryChunkStore:
    """Keeps every payload as one bytes object. `capacity_bytes` bounds the sum of the payloads' lengths.

    Offsets count the bytes ever put, as in an append-only volume (number 1), so that an unchanged place can be told
    from a rewritten one.
    """

    def __init__(self, server_id: str = "memory", *, capacity_bytes: int = 1 << 30) -> None:
        self.server_id = server_id
        self._capacity_bytes = capacity_bytes
        self._lock = threading.Lock()
        self._chunks: dict[int, tuple[bytes, ChunkInfo]] = {}
        self._fids: list[int] = []  # the keys of _chunks, ascending
        self._live_bytes = 0
        self._tail = 0
        self._fid_max = 0

    def put(self, fid: int, payload: Buffer, crc32c: int) -> None:
        view = memoryview(payload).cast("B")
        check_payload(fid, view.nbytes, crc32c)
        actual = crc32c_of(view)
        if actual != crc32c:
            raise ChecksumMismatch(
                f"chunk {fid}: crc32c {crc32c:08x} was announced, {actual:08x} came", expected=crc32c, actual=actual
            )
        stored = bytes(view)
        with self._lock:
            present = self._chunks.get(fid)
            if present is not None:
                if present[0] != stored:
                    raise ChunkConflict(f"other bytes are stored under fid {fid}", fid=fid)
                return
            if self._live_bytes + len(stored) > self._capacity_bytes:
                raise StorageFull(f"chunk {fid} of {len(stored)} bytes does not fit, {self._free_bytes} are free")
            self._chunks[fid] = (stored, ChunkInfo(fid, len(stored), crc32c, volume=1, offset=self._tail))
            bisect.insort(self._fids, fid)
            self._live_bytes += len(stored)
            self._tail += len(stored)
            self._fid_max = max(self._fid_max, fid)

    def read_into(self, fid: int, offset: int, buffer: bytearray | memoryview) -> None:
        view = memoryview(buffer).cast("B")
        stored, info = self._get(fid)
        check_range(fid, offset, view.nbytes, info.length)
        view[:] = stored[offset : offset + view.nbytes]

    def info(self, fid: int) -> ChunkInfo:
        return self._get(fid)[1]

    def delete(self, fid: int) -> bool:
        check_fid(fid)
        with self._lock:
            present = self._chunks.pop(fid, None)
            if present is None:
                return False
            del self._fids[bisect.bisect_left(self._fids, fid)]
            self._live_bytes -= present[1].length
            return True

    def list_chunks(self, after_fid: int = 0, limit: int = 1000) -> list[ChunkInfo]:
        check_list(after_fid, limit)
        with self._lock:
            start = bisect.bisect_right(self._fids, after_fid)
            return [self._chunks[fid][1] for fid in self._fids[start : start + limit]]

    def stat(self) -> StoreStat:
        with self._lock:
            return StoreStat(
                server_id=self.server_id,
                state="rw" if self._free_bytes > 0 else "ro_full",
                chunks=len(self._chunks),
                live_bytes=self._live_bytes,
                dead_bytes=0,
                free_bytes=self._free_bytes,
                total_bytes=self._capacity_bytes,
                volumes=1,
                volumes_failed=0,
                fid_max=self._fid_max,
            )

    @property
    def _free_bytes(self) -> int:
        return self._capacity_bytes - self._live_bytes

    def _get(self, fid: int) -> tuple[bytes, ChunkInfo]:
        check_fid(fid)
        with self._lock:
            present = self._chunks.get(fid)
        if present is None:
            raise ChunkNotFound(f"no chunk {fid}", fid=fid)
        return present
