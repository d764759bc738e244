"""LocalUpkeep: the ChunkUpkeep over an open engine, in this process."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import native.values
from chunkserver.checks import check_operation, check_ranges, check_rate, check_share, check_volume_list
from chunkserver.compacting import Compact
from chunkserver.disks import Chunks
from chunkserver.engine_errors import translated
from chunkserver.interface import ChunkInfo, Operation, ScrubStatus
from chunkserver.operations import Operations
from chunkserver.scrubbing import Scrubber, ScrubLimits
from chunkserver.verifying import Verify
from native.errors import EngineError
from native.values import RangeDigest, VolumeInfo
from wire.errors import BadRequest, VolumeNotFound

T = TypeVar("T")

COMPACT_BELOW = 0.7


@dataclass(frozen=True, slots=True)
class CompactionLimits:
    """What compaction keeps to unless an operator says otherwise."""

    below: float = COMPACT_BELOW
    bytes_s: int = 64 * 1024 * 1024


class LocalUpkeep:
    """From start_upkeep to stop_upkeep, which comes before the engine is closed."""

    def __init__(self, engine: Chunks, scrub: ScrubLimits, compaction: CompactionLimits) -> None:
        self._engine = engine
        self._scrub_limits = scrub
        self._compaction_limits = compaction
        self._scrubber = Scrubber(engine, scrub)
        self._operations = Operations()

    def start_upkeep(self) -> None:
        self._scrubber.start()

    def stop_upkeep(self) -> None:
        self._operations.close()
        self._scrubber.stop()

    def volumes(self) -> list[VolumeInfo]:
        try:
            return self._engine.volumes()
        except EngineError as exc:
            raise translated(exc) from exc

    def volume_chunks(self, volume: int, after_offset: int = 0, limit: int = 1000) -> list[ChunkInfo]:
        check_volume_list(volume, after_offset, limit)
        try:
            return [chunk_info(found) for found in self._engine.needles(volume, after_offset, limit)]
        except EngineError as exc:
            raise translated(exc) from exc

    def range_digests(self, first_fid: int, span_log2: int, count: int) -> list[RangeDigest]:
        check_ranges(first_fid, span_log2, count)
        try:
            return self._engine.range_digests(first_fid, span_log2, count)
        except EngineError as exc:
            raise translated(exc) from exc

    def scrub_status(self) -> ScrubStatus:
        try:
            return self._scrubber.status()
        except EngineError as exc:
            raise translated(exc) from exc

    def start_scrub(self, *, fresh: bool = False, bytes_s: int | None = None) -> ScrubStatus:
        check_rate(bytes_s)
        try:
            self._scrubber.run_now(fresh=fresh, bytes_s=bytes_s)
        except EngineError as exc:
            raise translated(exc) from exc
        return self.scrub_status()

    def stop_scrub(self) -> ScrubStatus:
        self._scrubber.pause()
        return self.scrub_status()

    def start_verify(
        self, operation_id: str, volumes: tuple[int, ...] = (), *, bytes_s: int | None = None
    ) -> Operation:
        check_operation(operation_id, volumes, bytes_s)
        known = self._operations.known(operation_id, "verify")
        if known is not None:
            return known
        if bytes_s is None:
            bytes_s = self._scrub_limits.bytes_s
            if bytes_s == 0:
                raise BadRequest("this server does not scrub by itself (chunkserver.scrub_bytes_s is 0): say a rate")
        begun = Operation(operation_id, "verify", "running", volumes, bytes_s, time.time())
        return self._operations.start(begun, Verify(self._engine, self._named(volumes), bytes_s))

    def start_compaction(
        self,
        operation_id: str,
        volumes: tuple[int, ...] = (),
        *,
        below: float | None = None,
        bytes_s: int | None = None,
    ) -> Operation:
        check_operation(operation_id, volumes, bytes_s)
        check_share(below)
        known = self._operations.known(operation_id, "compaction")
        if known is not None:
            return known
        below = self._compaction_limits.below if below is None else below
        bytes_s = self._compaction_limits.bytes_s if bytes_s is None else bytes_s
        begun = Operation(operation_id, "compaction", "running", volumes, bytes_s, time.time())
        named = self._named(volumes)
        work = _translating(lambda: Compact(self._engine, named, volumes, below, bytes_s))
        return self._operations.start(begun, work)

    def operation(self, operation_id: str) -> Operation:
        return self._operations.tell(operation_id)

    def stop_operation(self, operation_id: str) -> Operation:
        return self._operations.stop(operation_id)

    def _named(self, volumes: tuple[int, ...]) -> list[VolumeInfo]:
        """These, or all when none is named; ascending."""
        there = self.volumes()
        missing = set(volumes) - {volume.id for volume in there}
        if missing:
            raise VolumeNotFound(f"no volume {', '.join(map(str, sorted(missing)))}")
        return [volume for volume in there if not volumes or volume.id in volumes]


def _translating(call: Callable[[], T]) -> T:
    try:
        return call()
    except EngineError as exc:
        raise translated(exc) from exc


def chunk_info(found: native.values.ChunkInfo) -> ChunkInfo:
    return ChunkInfo(found.fid, found.length, found.crc32c, found.volume, found.offset, found.created_s)
