"""JoiningChunkStore: the store of a server that may not know its cluster yet.

A data directory belongs to one cluster for ever, and the id of the cluster comes from its ChunkMaster. A new server
that starts before any master answers over HTTP at once, refuses chunks with Unavailable, and opens its engine when a
master has told the id. Nobody sends chunks before that: no heartbeat, so no group takes writes with it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from chunkserver.core import LocalChunkStore
from chunkserver.data_directory import DataDirectory
from chunkserver.interface import Buffer, ChunkInfo, Operation, ScrubStatus, StoreStat
from native.values import RangeDigest, VolumeInfo
from wire.errors import Conflict, StorageFull, Unavailable


class JoiningChunkStore:
    """Takes `directory` over. `open_store(directory, cluster_id)` opens the engine; at once when the directory has
    joined a cluster before."""

    def __init__(self, directory: DataDirectory, open_store: Callable[[DataDirectory, str], LocalChunkStore]) -> None:
        self._directory = directory
        self._open_store = open_store
        self._lock = threading.Lock()
        self._store: LocalChunkStore | None = None
        self._closed = False
        if directory.identity.cluster_id is not None:
            self.join(directory.identity.cluster_id)

    @property
    def server_id(self) -> str:
        return self._directory.identity.server_id

    @property
    def cluster_id(self) -> str | None:
        return self._directory.identity.cluster_id if self._store is not None else None

    def join(self, cluster_id: str) -> None:
        """Open the store as a part of this cluster; harmless to repeat. Raises Conflict for a second cluster."""
        with self._lock:
            if self._store is not None:
                if cluster_id != self._store.cluster_id:
                    raise Conflict(f"server {self.server_id} belongs to cluster {self._store.cluster_id}")
                return
            if self._closed:
                raise Unavailable("this ChunkServer is stopping")
            self._store = self._open_store(self._directory, cluster_id)

    def check(self) -> None:
        """Return when chunks can be stored and read here; else raise what stands in the way: StorageFull when they can
        be read."""
        stat = self._opened().stat()
        if stat.state == "failed":
            raise Unavailable(f"the disk of server {self.server_id} has failed; it only serves reads")
        if stat.state == "ro_full":
            raise StorageFull(
                f"the disk of server {self.server_id} is full to its reserve (chunkserver.reserve_bytes); "
                "it only serves reads and deletes"
            )

    def put(self, fid: int, payload: Buffer, crc32c: int) -> None:
        self._opened().put(fid, payload, crc32c)

    def read_into(self, fid: int, offset: int, buffer: bytearray | memoryview) -> int:
        return self._opened().read_into(fid, offset, buffer)

    def info(self, fid: int) -> ChunkInfo:
        return self._opened().info(fid)

    def delete(self, fid: int) -> bool:
        return self._opened().delete(fid)

    def list_chunks(self, after_fid: int = 0, limit: int = 1000) -> list[ChunkInfo]:
        return self._opened().list_chunks(after_fid, limit)

    def stat(self) -> StoreStat:
        return self._opened().stat()

    def volumes(self) -> list[VolumeInfo]:
        return self._opened().volumes()

    def volume_chunks(self, volume: int, after_offset: int = 0, limit: int = 1000) -> list[ChunkInfo]:
        return self._opened().volume_chunks(volume, after_offset, limit)

    def range_digests(self, first_fid: int, span_log2: int, count: int) -> list[RangeDigest]:
        return self._opened().range_digests(first_fid, span_log2, count)

    def scrub_status(self) -> ScrubStatus:
        return self._opened().scrub_status()

    def start_scrub(self, *, fresh: bool = False, bytes_s: int | None = None) -> ScrubStatus:
        return self._opened().start_scrub(fresh=fresh, bytes_s=bytes_s)

    def stop_scrub(self) -> ScrubStatus:
        return self._opened().stop_scrub()

    def start_verify(
        self, operation_id: str, volumes: tuple[int, ...] = (), *, bytes_s: int | None = None
    ) -> Operation:
        return self._opened().start_verify(operation_id, volumes, bytes_s=bytes_s)

    def start_compaction(
        self,
        operation_id: str,
        volumes: tuple[int, ...] = (),
        *,
        below: float | None = None,
        bytes_s: int | None = None,
    ) -> Operation:
        return self._opened().start_compaction(operation_id, volumes, below=below, bytes_s=bytes_s)

    def operation(self, operation_id: str) -> Operation:
        return self._opened().operation(operation_id)

    def stop_operation(self, operation_id: str) -> Operation:
        return self._opened().stop_operation(operation_id)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            if self._store is not None:
                self._store.close()
            else:
                self._directory.close()

    def _opened(self) -> LocalChunkStore:
        if self._store is None:
            raise Unavailable(f"server {self.server_id} has not joined a cluster yet: no ChunkMaster has answered")
        return self._store
