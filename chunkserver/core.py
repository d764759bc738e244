"""LocalChunkStore: the ChunkStore over the C engine, in this process.

Chunks are here, what operators and repair ask is in chunkserver.upkeep. It adds nothing on the data path: payloads go
from the caller's buffer to the disk, and from the disk into the caller's buffer.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import native.errors
from chunkserver.checks import check_fid, check_list, check_payload
from chunkserver.data_directory import DataDirectory
from chunkserver.disks import Chunks, Disks
from chunkserver.engine_errors import translated
from chunkserver.interface import Buffer, ChunkInfo, StoreStat, StoreState
from chunkserver.opening import open_disks
from chunkserver.scrubbing import ScrubLimits
from chunkserver.upkeep import COMPACT_BELOW, CompactionLimits, LocalUpkeep, chunk_info
from native.engine import EngineOptions
from native.errors import EngineError
from wire import errors
from wire.space_reserve import SpaceReserve

log = logging.getLogger("speedy.chunkserver")


class LocalChunkStore(LocalUpkeep):
    """One data directory, open. put may be called from any number of threads: concurrent ones share their fdatasync."""

    def __init__(
        self,
        directory: DataDirectory,
        chunks: Chunks,
        scrub: ScrubLimits,
        compaction: CompactionLimits,
        reserve: SpaceReserve | None = None,
    ) -> None:
        super().__init__(chunks, scrub, compaction)
        self._directory = directory
        self._reserve = reserve
        self._server_id = directory.identity.server_id

    @classmethod
    def open(
        cls,
        path: Path,
        options: EngineOptions,
        *,
        server_id: str | None = None,
        lock_wait_s: float = 0.0,
        scrub: ScrubLimits | None = None,
        reserve: SpaceReserve | None = None,
        disks: Sequence[Path] = (),
    ) -> LocalChunkStore:
        """Open or create the data directory of a server of cluster `options.cluster_id`, and scrub it from now on.

        `disks`: directories, each on a disk of its own, that keep the chunks (none: one in `path`).

        While `reserve`, which stays the caller's, is given up, stat() tells of a full store: whoever filled the disk,
        what is left of it is not for chunks.

        Raises Conflict when another process uses the directory, when it belongs to another server id or cluster, or
        was written by a newer program; Unavailable when its disk fails.
        """
        directory = DataDirectory.open(path, server_id=server_id, lock_wait_s=lock_wait_s)
        try:
            return cls.open_in(directory, options, scrub, reserve, disks)
        except BaseException:
            directory.close()
            raise

    @classmethod
    def open_in(
        cls,
        directory: DataDirectory,
        options: EngineOptions,
        scrub: ScrubLimits | None = None,
        reserve: SpaceReserve | None = None,
        disks: Sequence[Path] = (),
    ) -> LocalChunkStore:
        """The store of a directory that is held already; the store closes it. On an error it stays the caller's."""
        directory.check_cluster(options.cluster_id)
        # A directory that has joined has a store: if there is none, its disk is not mounted, and a new empty store
        # would answer "not found" for chunks that exist.
        create = directory.identity.cluster_id is None or bool(disks)
        known = directory.identity.disks
        own = directory.own_disk(bool(disks))
        try:
            chunks, known = open_disks(directory.path, own, disks, known, replace(options, create=create))
        except OSError as exc:
            raise errors.Unavailable(f"{directory.disk} cannot be used: {exc}") from exc
        except EngineError as exc:
            raise translated(exc) from exc
        try:
            directory.join(options.cluster_id, known, own is not None and bool(known))
        except BaseException:
            chunks.close()
            raise
        # A server that does not compact by itself does so below the usual share when it is told to.
        compaction = CompactionLimits(options.compact_below or COMPACT_BELOW, options.compact_bytes_s)
        store = cls(directory, chunks, scrub or ScrubLimits(), compaction, reserve)
        store.start_upkeep()
        return store

    @property
    def server_id(self) -> str:
        return self._server_id

    @property
    def cluster_id(self) -> str:
        cluster_id = self._directory.identity.cluster_id
        assert cluster_id is not None  # open_in joined it
        return cluster_id

    def join(self, cluster_id: str) -> None:
        """Raises Conflict when this is not the store's cluster."""
        self._directory.check_cluster(cluster_id)

    def put(self, fid: int, payload: Buffer, crc32c: int) -> None:
        view = memoryview(payload)
        check_payload(fid, view.nbytes, crc32c)
        try:
            self._engine.put(fid, view, crc32c)
        except EngineError as exc:
            raise translated(exc, fid) from exc

    def read_into(self, fid: int, offset: int, buffer: bytearray | memoryview) -> int:
        check_fid(fid)
        if offset < 0:
            raise errors.RangeNotSatisfiable(f"chunk {fid} has no byte {offset}")
        try:
            return self._engine.read_into(fid, offset, buffer)
        except EngineError as exc:
            raise translated(exc, fid) from exc

    def info(self, fid: int) -> ChunkInfo:
        check_fid(fid)
        try:
            return chunk_info(self._engine.info(fid))
        except EngineError as exc:
            raise translated(exc, fid) from exc

    def delete(self, fid: int) -> bool:
        check_fid(fid)
        try:
            return self._engine.delete(fid)
        except EngineError as exc:
            raise translated(exc, fid) from exc

    def list_chunks(self, after_fid: int = 0, limit: int = 1000) -> list[ChunkInfo]:
        check_list(after_fid, limit)
        try:
            return [chunk_info(found) for found in self._engine.iterate(after_fid, limit)]
        except EngineError as exc:
            raise translated(exc) from exc

    def stat(self) -> StoreStat:
        try:
            stat, scrub = self._engine.stat(), self._engine.scrub_status()
            several = self._engine.count() if isinstance(self._engine, Disks) else None
        except EngineError as exc:
            raise translated(exc) from exc
        disks, disks_failed = several or (1, int(stat.state == "failed"))
        # With several disks the others have room when the data directory's has none.
        given_up = several is None and self._reserve is not None and self._reserve.given_up
        full = stat.state == "rw" and given_up
        return StoreStat(
            server_id=self._server_id,
            state="ro_full" if full else cast(StoreState, stat.state),
            chunks=stat.chunks,
            live_bytes=stat.live_bytes,
            dead_bytes=stat.dead_bytes,
            free_bytes=0 if full else stat.free_bytes,
            total_bytes=stat.total_bytes,
            volumes=stat.volumes,
            volumes_failed=stat.volumes_failed,
            fid_max=stat.fid_max,
            compactions=stat.compactions,
            compaction_failures=stat.compaction_failures,
            compacted_bytes=stat.compacted_bytes,
            given_back_bytes=stat.given_back_bytes,
            volumes_quarantined=stat.volumes_quarantined,
            damaged=stat.scrub_damaged,
            scrubbed_s=scrub.ended_s,
            disks=disks,
            disks_failed=disks_failed,
        )

    def close(self) -> None:
        """Write the checkpoint and let another process have the directory; harmless to repeat."""
        self.stop_upkeep()
        try:
            self._engine.close()
        except native.errors.DiskFull as exc:
            # Everything acknowledged is in the volumes: only the next start takes longer.
            log.warning("closed without a checkpoint: %s", exc)
        except EngineError as exc:
            raise translated(exc) from exc
        finally:
            self._directory.close()
