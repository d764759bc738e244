"""LocalChunkStore: the ChunkStore over the C engine, in this process.

The only place where the engine's exceptions become ours. It adds nothing on the data path: payloads go from the
caller's buffer to the disk, and from the disk into the caller's buffer.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import cast

import native.errors
import native.values
from chunkserver.checks import check_fid, check_list, check_payload, check_ranges, check_rate, check_volume_list
from chunkserver.data_directory import DataDirectory
from chunkserver.interface import Buffer, ChunkInfo, ScrubStatus, StoreStat, StoreState
from chunkserver.scrubbing import Scrubber, ScrubLimits
from native.engine import Engine, EngineOptions
from native.errors import EngineError
from native.values import RangeDigest, VolumeInfo
from wire import errors
from wire.space_reserve import SpaceReserve

log = logging.getLogger("speedy.chunkserver")


class LocalChunkStore:
    """One data directory, open. put may be called from any number of threads: concurrent ones share their fdatasync."""

    def __init__(
        self, directory: DataDirectory, chunks: Engine, scrub: ScrubLimits, reserve: SpaceReserve | None = None
    ) -> None:
        self._directory = directory
        self._reserve = reserve
        self._engine = chunks
        self._scrubber = Scrubber(chunks, scrub)
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
    ) -> LocalChunkStore:
        """Open or create the data directory of a server of cluster `options.cluster_id`, and scrub it from now on.

        While `reserve`, which stays the caller's, is given up, stat() tells of a full store: whoever filled the disk,
        what is left of it is not for chunks.

        Raises Conflict when another process uses the directory, when it belongs to another server id or cluster, or
        was written by a newer program; Unavailable when its disk fails.
        """
        directory = DataDirectory.open(path, server_id=server_id, lock_wait_s=lock_wait_s)
        try:
            return cls.open_in(directory, options, scrub, reserve)
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
    ) -> LocalChunkStore:
        """The store of a directory that is held already; the store closes it. On an error it stays the caller's."""
        directory.check_cluster(options.cluster_id)
        # A directory that has joined has a store: if there is none, its disk is not mounted, and a new empty store
        # would answer "not found" for chunks that exist.
        fresh = directory.identity.cluster_id is None
        try:
            chunks = Engine.open(directory.disk, replace(options, create=fresh))
        except OSError as exc:
            raise errors.Unavailable(f"{directory.disk} cannot be used: {exc}") from exc
        except EngineError as exc:
            raise _translated(exc) from exc
        try:
            directory.join(options.cluster_id)
        except BaseException:
            chunks.close()
            raise
        store = cls(directory, chunks, scrub or ScrubLimits(), reserve)
        store._scrubber.start()
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
            raise _translated(exc, fid) from exc

    def read_into(self, fid: int, offset: int, buffer: bytearray | memoryview) -> None:
        check_fid(fid)
        if offset < 0:
            raise errors.RangeNotSatisfiable(f"chunk {fid} has no byte {offset}")
        try:
            self._engine.read_into(fid, offset, buffer)
        except EngineError as exc:
            raise _translated(exc, fid) from exc

    def info(self, fid: int) -> ChunkInfo:
        check_fid(fid)
        try:
            return _chunk_info(self._engine.info(fid))
        except EngineError as exc:
            raise _translated(exc, fid) from exc

    def delete(self, fid: int) -> bool:
        check_fid(fid)
        try:
            return self._engine.delete(fid)
        except EngineError as exc:
            raise _translated(exc, fid) from exc

    def list_chunks(self, after_fid: int = 0, limit: int = 1000) -> list[ChunkInfo]:
        check_list(after_fid, limit)
        try:
            return [_chunk_info(found) for found in self._engine.iterate(after_fid, limit)]
        except EngineError as exc:
            raise _translated(exc) from exc

    def stat(self) -> StoreStat:
        try:
            stat = self._engine.stat()
        except EngineError as exc:
            raise _translated(exc) from exc
        full = stat.state == "rw" and self._reserve is not None and self._reserve.given_up
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
        )

    def volumes(self) -> list[VolumeInfo]:
        try:
            return self._engine.volumes()
        except EngineError as exc:
            raise _translated(exc) from exc

    def volume_chunks(self, volume: int, after_offset: int = 0, limit: int = 1000) -> list[ChunkInfo]:
        check_volume_list(volume, after_offset, limit)
        try:
            return [_chunk_info(found) for found in self._engine.needles(volume, after_offset, limit)]
        except EngineError as exc:
            raise _translated(exc) from exc

    def range_digests(self, first_fid: int, span_log2: int, count: int) -> list[RangeDigest]:
        check_ranges(first_fid, span_log2, count)
        try:
            return self._engine.range_digests(first_fid, span_log2, count)
        except EngineError as exc:
            raise _translated(exc) from exc

    def scrub_status(self) -> ScrubStatus:
        try:
            return self._scrubber.status()
        except EngineError as exc:
            raise _translated(exc) from exc

    def start_scrub(self, *, fresh: bool = False, bytes_s: int | None = None) -> ScrubStatus:
        check_rate(bytes_s)
        try:
            self._scrubber.run_now(fresh=fresh, bytes_s=bytes_s)
        except EngineError as exc:
            raise _translated(exc) from exc
        return self.scrub_status()

    def stop_scrub(self) -> ScrubStatus:
        self._scrubber.pause()
        return self.scrub_status()

    def close(self) -> None:
        """Write the checkpoint and let another process have the directory; harmless to repeat."""
        self._scrubber.stop()
        try:
            self._engine.close()
        except native.errors.DiskFull as exc:
            # Everything acknowledged is in the volumes: only the next start takes longer.
            log.warning("closed without a checkpoint: %s", exc)
        except EngineError as exc:
            raise _translated(exc) from exc
        finally:
            self._directory.close()


def _chunk_info(found: native.values.ChunkInfo) -> ChunkInfo:
    return ChunkInfo(found.fid, found.length, found.crc32c, found.volume, found.offset, found.created_s)


_TRANSLATION: dict[type[EngineError], type[errors.SpeedyError]] = {
    native.errors.ChunkNotFound: errors.ChunkNotFound,
    native.errors.VolumeNotFound: errors.VolumeNotFound,
    native.errors.ChunkExists: errors.ChunkConflict,
    native.errors.ChunkCorrupt: errors.ChunkUnreadable,
    native.errors.ChecksumMismatch: errors.ChecksumMismatch,
    native.errors.RangeInvalid: errors.RangeNotSatisfiable,
    native.errors.DiskFull: errors.StorageFull,
    native.errors.StoreBusy: errors.Overloaded,
    native.errors.StoreFailed: errors.Unavailable,
    native.errors.StoreLocked: errors.Conflict,
    native.errors.StoreMismatch: errors.Conflict,
}


def _translated(exc: EngineError, fid: int = 0) -> errors.SpeedyError:
    """The one translation of the engine's exceptions; what is not in the table is a store that was closed."""
    kind = _TRANSLATION.get(type(exc), errors.Unavailable)
    if kind is errors.StorageFull:
        return kind(f"{exc}; the setting is chunkserver.reserve_bytes")
    return kind(str(exc), fid=fid) if fid else kind(str(exc))
