"""What the compiled engine answers, as Python values and errors."""

import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from native._engine import ffi, lib
from native.errors import (
    ChecksumMismatch,
    ChunkCorrupt,
    ChunkExists,
    ChunkNotFound,
    DiskFull,
    EngineError,
    RangeInvalid,
    StoreBusy,
    StoreFailed,
    StoreLocked,
    StoreMismatch,
)
from native.values import (
    ChunkInfo,
    CompactionReport,
    Damage,
    EngineStat,
    RangeDigest,
    ScrubProgress,
    Verification,
    VolumeInfo,
)

_STATES: Final = {
    lib.ENGINE_STATE_RW: "rw",
    lib.ENGINE_STATE_RO_FULL: "ro_full",
    lib.ENGINE_STATE_FAILED: "failed",
}
_VOLUME_STATES: Final = {
    lib.ENGINE_VOLUME_STANDBY: "standby",
    lib.ENGINE_VOLUME_ACTIVE: "active",
    lib.ENGINE_VOLUME_CLOSING: "closing",
    lib.ENGINE_VOLUME_SEALED: "sealed",
    lib.ENGINE_VOLUME_FAILED: "failed",
    lib.ENGINE_VOLUME_QUARANTINED: "quarantined",
}
_VOLUME_FIELDS: Final = tuple(name for name in VolumeInfo.__dataclass_fields__ if name not in ("uuid", "state"))
_STAT_FIELDS: Final = tuple(name for name in EngineStat.__dataclass_fields__ if name != "state")
#: engine_status -> the error, made of (engine_error, its text, fid, path)
_ERRORS: Final[dict[int, Callable[[Any, str, int, Path], EngineError]]] = {
    lib.ENGINE_NOT_FOUND: lambda error, detail, fid, path: ChunkNotFound(fid),
    lib.ENGINE_EXISTS: lambda error, detail, fid, path: ChunkExists(fid),
    lib.ENGINE_CORRUPT: lambda error, detail, fid, path: ChunkCorrupt(fid, detail),
    lib.ENGINE_CHECKSUM: lambda error, detail, fid, path: ChecksumMismatch(error.expected, error.actual),
    lib.ENGINE_DISK_FULL: lambda error, detail, fid, path: DiskFull(f"{path}: {detail}"),
    lib.ENGINE_FAILED: lambda error, detail, fid, path: StoreFailed(f"{path}: {detail}"),
    lib.ENGINE_BUSY: lambda error, detail, fid, path: StoreBusy(f"{path}: {detail}"),
    lib.ENGINE_LOCKED: lambda error, detail, fid, path: StoreLocked(path),
    lib.ENGINE_MISMATCH: lambda error, detail, fid, path: StoreMismatch(f"{path}: {detail}"),
    lib.ENGINE_RANGE: lambda error, detail, fid, path: RangeInvalid(detail),
}


def error_of(error: Any, fid: int, path: Path) -> EngineError:
    """The error that an ``engine_error`` tells of a call for ``fid`` (0: for none) on the store at ``path``."""
    detail = ffi.string(error.detail).decode("utf-8", "replace")
    make = _ERRORS.get(error.code)
    return EngineError(f"{path}: {detail}") if make is None else make(error, detail, fid, path)


def chunk_info(chunk: Any) -> ChunkInfo:
    return ChunkInfo(chunk.fid, chunk.length, chunk.crc32c, chunk.volume, chunk.offset, float(chunk.created_s))


def volume_info(volume: Any) -> VolumeInfo:
    return VolumeInfo(
        uuid=str(uuid.UUID(bytes=bytes(volume.uuid))),
        state=_VOLUME_STATES[volume.state],
        **{name: getattr(volume, name) for name in _VOLUME_FIELDS},
    )


def engine_stat(stats: Any) -> EngineStat:
    return EngineStat(state=_STATES[stats.state], **{name: getattr(stats, name) for name in _STAT_FIELDS})


def range_digest(found: Any) -> RangeDigest:
    digest = f"{found.halves[0]:016x}{found.halves[1]:016x}"
    return RangeDigest(found.first_fid, found.chunks, found.payload_bytes, digest)


def scrub_progress(told: Any) -> ScrubProgress:
    return ScrubProgress(
        round=told.round,
        active=bool(told.active),
        started_s=told.started_us / 1e6,
        ended_s=told.ended_us / 1e6,
        total_bytes=told.total_bytes,
        checked_bytes=told.checked_bytes,
        checked_chunks=told.checked_chunks,
        damaged=told.damaged,
        volume=told.volume,
        offset=told.offset,
        wait_s=told.wait_s,
    )


def damage(found: Any) -> Damage:
    what = ffi.string(found.what).decode("utf-8", "replace")
    return Damage(found.fid, found.volume, found.offset, found.length, what, float(found.found_s))


def verification(told: Any, found: Any) -> Verification:
    return Verification(
        offset=told.offset,
        read_bytes=told.read_bytes,
        checked_bytes=told.checked_bytes,
        checked_chunks=told.checked_chunks,
        damage=tuple(damage(found[i]) for i in range(told.damaged)),
        ended=bool(told.ended),
    )


def compaction_report(report: Any) -> CompactionReport:
    return CompactionReport(
        chunks_copied=report.chunks_copied,
        bytes_copied=report.bytes_copied,
        bytes_given_back=report.bytes_given_back,
        volumes_removed=report.volumes_removed,
        volumes_made=report.volumes_made,
        volumes_damaged=report.volumes_damaged,
        stopped=bool(report.stopped),
    )
