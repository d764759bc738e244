"""The Python face of the storage engine; the manual is include/engine.h.

This module and digest.py are the only ones that touch the compiled one, and the one that others import from: errors,
values and digests are here too. Every call releases the GIL and may come from any thread. Payload buffers are read and
filled in place, never copied and never kept after the call.
"""

import os
import uuid
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from native._engine import ffi, lib
from native.digest import Digest
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
    VolumeNotFound,
)
from native.values import CompactionReport, Damage, RangeDigest, ScrubProgress, VolumeInfo

__all__ = [
    "CHUNK_BYTES_MAX",
    "FORMAT",
    "RANGES_MAX",
    "Buffer",
    "ChecksumMismatch",
    "ChunkCorrupt",
    "ChunkExists",
    "ChunkInfo",
    "ChunkNotFound",
    "CompactionReport",
    "Damage",
    "Digest",
    "DiskFull",
    "Engine",
    "EngineError",
    "EngineOptions",
    "EngineStat",
    "RangeDigest",
    "RangeInvalid",
    "ScrubProgress",
    "StoreBusy",
    "StoreFailed",
    "StoreLocked",
    "StoreMismatch",
    "VolumeInfo",
    "VolumeNotFound",
    "crc32c",
    "crc32c_combine",
]

Buffer = bytes | bytearray | memoryview

CHUNK_BYTES_MAX: Final = lib.ENGINE_CHUNK_BYTES_MAX
PUT_MANY_MAX: Final = lib.ENGINE_PUT_MANY_MAX
FORMAT: Final = lib.ENGINE_FORMAT
_U64_MAX: Final = (1 << 64) - 1
_U32_MAX: Final = (1 << 32) - 1
_DAMAGE_MAX: Final = 1024  # as many as the engine keeps
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
RANGES_MAX: Final = lib.ENGINE_RANGES_MAX


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """How a store is opened. Sizes in bytes, times in seconds.

    ``cluster_id`` is a UUID; a directory of another cluster is refused. ``reserve_bytes`` None means two volumes, at
    most 1/16 and at least 1 % of the file system. ``create`` False refuses a directory without a store: a disk that is
    not mounted is noticed. ``read_only`` looks at a store without changing a byte of it. ``sync`` False acknowledges
    before the bytes are durable. ``appenders`` threads (1 to 8) write at once, each to another volume. Volumes whose
    live share is below ``compact_below`` (0: none) are compacted by themselves, looked for every ``compact_every_s``,
    writing at most ``compact_bytes_s`` bytes a second (0: no bound).
    """

    cluster_id: str
    volume_size_first: int = 64 << 20
    volume_size_max: int = 1 << 30
    reserve_bytes: int | None = None
    sync: bool = True
    create: bool = True
    read_only: bool = False
    queue_bytes_max: int = 256 << 20
    queue_timeout_s: float = 30.0
    appenders: int = 4
    checkpoint_bytes: int = 256 << 20
    checkpoint_s: float = 60.0
    lock_timeout_s: float = 0.0
    compact_below: float = 0.7
    compact_every_s: float = 60.0
    compact_bytes_s: int = 64 << 20


@dataclass(frozen=True, slots=True)
class ChunkInfo:
    """A stored chunk: payload ``length`` and CRC32C, and where its needle begins (``offset`` in ``volume``)."""

    fid: int
    length: int
    crc32c: int
    volume: int
    offset: int
    created_s: float


@dataclass(frozen=True, slots=True)
class EngineStat:
    """State and accounting, in bytes; live + dead + pad + volume_free == volume_bytes.

    ``free_bytes`` is usable for new chunks (in volumes, and of the file system above the reserve), of ``total_bytes``.
    ``state`` is "rw", "ro_full" or "failed". The counters are of this process. Fields are explained in engine.h.
    """

    chunks: int
    payload_bytes: int
    live_bytes: int
    dead_bytes: int
    pad_bytes: int
    volume_free_bytes: int
    volume_bytes: int
    allocated_bytes: int
    punched_bytes: int
    free_bytes: int
    total_bytes: int
    reserve_bytes: int
    fid_max: int
    appends: int
    batches: int
    syncs: int
    deletes: int
    reads: int
    corrupt_reads: int
    scrubbed_bytes: int
    scrub_damaged: int
    scrub_rounds: int
    scrub_volume: int
    scrub_offset: int
    checkpoints: int
    checkpoint_failures: int
    compactions: int
    compaction_failures: int
    compacted_bytes: int
    given_back_bytes: int
    queued_bytes: int
    index_bytes: int
    volumes: int
    volumes_failed: int
    volumes_quarantined: int
    unknown_files: int
    damaged_records: int
    state: str


_VOLUME_FIELDS: Final = tuple(name for name in VolumeInfo.__dataclass_fields__ if name not in ("uuid", "state"))
_STAT_FIELDS: Final = tuple(name for name in EngineStat.__dataclass_fields__ if name != "state")


def _raise(error: Any, fid: int, path: Path) -> None:
    raise _error_of(error, fid, path)


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


def _error_of(error: Any, fid: int, path: Path) -> EngineError:
    detail = ffi.string(error.detail).decode("utf-8", "replace")
    make = _ERRORS.get(error.code)
    return EngineError(f"{path}: {detail}") if make is None else make(error, detail, fid, path)


def _checked_fid(fid: int) -> int:
    if not 0 < fid <= _U64_MAX:
        raise EngineError(f"{fid} is not a fid: 1 .. 2**64 - 1")
    return fid


class Engine:
    """One open store. Open it after fork; close it, or use it as a context manager."""

    __slots__ = ("_handle", "_path")

    def __init__(self, handle: Any, path: Path) -> None:
        self._handle = handle
        self._path = path

    @classmethod
    def open(cls, directory: Path, options: EngineOptions) -> "Engine":
        """Opens the store in ``directory``, making directory and store when missing (unless ``options.create`` is off).

        Raises StoreLocked, StoreMismatch, DiskFull, StoreFailed.
        """
        if options.create and not options.read_only:
            directory.mkdir(parents=True, exist_ok=True)
        native = ffi.new("engine_options *")
        native.volume_size_first = options.volume_size_first
        native.volume_size_max = options.volume_size_max
        native.reserve_bytes = _U64_MAX if options.reserve_bytes is None else options.reserve_bytes
        native.queue_bytes_max = options.queue_bytes_max
        native.queue_timeout_s = options.queue_timeout_s
        native.appenders = options.appenders
        native.checkpoint_bytes = options.checkpoint_bytes
        native.checkpoint_s = options.checkpoint_s
        native.lock_timeout_s = options.lock_timeout_s
        native.compact_below = options.compact_below
        native.compact_every_s = options.compact_every_s
        native.compact_bytes_s = options.compact_bytes_s
        native.sync = options.sync
        native.create = options.create
        native.read_only = options.read_only
        native.cluster_id = list(uuid.UUID(options.cluster_id).bytes)
        store = ffi.new("engine_store **")
        error = ffi.new("engine_error *")
        if lib.engine_open(os.fsencode(directory), native, store, error) != lib.ENGINE_OK:
            _raise(error, 0, directory)
        return cls(ffi.gc(store[0], lib.engine_free), directory)

    def __enter__(self) -> "Engine":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def put(self, fid: int, payload: Buffer, crc32c: int) -> None:
        """Stores a chunk (0 .. CHUNK_BYTES_MAX bytes) and returns when it is durable.

        The same fid with the same bytes again is fine. The caller must not change ``payload`` meanwhile.
        Raises ChunkExists, ChecksumMismatch, DiskFull, StoreFailed, StoreBusy, RangeInvalid.
        """
        error = ffi.new("engine_error *")
        with ffi.from_buffer("uint8_t[]", payload) as view:
            status = lib.engine_put(self._handle, _checked_fid(fid), view, len(view), crc32c, error)
        if status != lib.ENGINE_OK:
            _raise(error, fid, self._path)

    def put_many(self, chunks: Sequence[tuple[int, Buffer, int]]) -> list[EngineError | None]:
        """Like `put` for up to PUT_MANY_MAX (fid, payload, crc32c) at once, which wait for their syncs together.

        One answer for each, in their order: None, or the error that `put` would have raised. Not atomic: others are
        stored.
        """
        errors = ffi.new("engine_error[]", len(chunks))
        items = ffi.new("engine_item[]", len(chunks))
        with ExitStack() as views:
            for item, (fid, payload, crc) in zip(items, chunks, strict=True):
                view = views.enter_context(ffi.from_buffer("uint8_t[]", payload))
                item.fid, item.payload, item.length, item.crc32c = _checked_fid(fid), view, len(view), crc
            if lib.engine_put_many(self._handle, items, len(chunks), errors) == lib.ENGINE_OK:
                return [None] * len(chunks)
        return [
            None if item.status == lib.ENGINE_OK else _error_of(error, item.fid, self._path)
            for item, error in zip(items, errors, strict=True)
        ]

    def read_into(self, fid: int, offset: int, buffer: bytearray | memoryview) -> None:
        """Fills the writable ``buffer`` with exactly its length of payload bytes from ``offset``, verified.

        On an error its content is undefined. Raises ChunkNotFound, RangeInvalid, ChunkCorrupt.
        """
        if not 0 <= offset <= _U64_MAX:
            raise RangeInvalid(f"offset {offset} of chunk {fid}")
        error = ffi.new("engine_error *")
        with ffi.from_buffer("uint8_t[]", buffer, require_writable=True) as view:
            status = lib.engine_read(self._handle, _checked_fid(fid), offset, view, len(view), error)
        if status != lib.ENGINE_OK:
            _raise(error, fid, self._path)

    def info(self, fid: int) -> ChunkInfo:
        """Describes a chunk without reading it. Raises ChunkNotFound."""
        chunk = ffi.new("engine_chunk *")
        error = ffi.new("engine_error *")
        if lib.engine_info(self._handle, _checked_fid(fid), chunk, error) != lib.ENGINE_OK:
            _raise(error, fid, self._path)
        return _chunk_info(chunk)

    def __contains__(self, fid: int) -> bool:
        try:
            self.info(fid)
        except ChunkNotFound:
            return False
        return True

    def delete(self, fid: int) -> bool:
        """Removes a chunk durably; False when there was none. Its space returns once nobody reads it any more.

        Raises StoreFailed, DiskFull.
        """
        removed = ffi.new("int *")
        error = ffi.new("engine_error *")
        if lib.engine_delete(self._handle, _checked_fid(fid), removed, error) != lib.ENGINE_OK:
            _raise(error, fid, self._path)
        return bool(removed[0])

    def iterate(self, after_fid: int = 0, limit: int = 1000) -> list[ChunkInfo]:
        """Up to ``limit`` chunks with fid > ``after_fid``, ascending; fewer only at the end.

        What is put or deleted meanwhile may or may not appear.
        """
        found: list[ChunkInfo] = []
        error = ffi.new("engine_error *")
        count = ffi.new("size_t *")
        while len(found) < limit and after_fid < _U64_MAX:
            wanted = min(limit - len(found), lib.ENGINE_ITERATE_MAX)
            chunks = ffi.new("engine_chunk[]", wanted)
            if lib.engine_iterate(self._handle, after_fid, chunks, wanted, count, error) != lib.ENGINE_OK:
                _raise(error, after_fid, self._path)
            found.extend(_chunk_info(chunks[i]) for i in range(count[0]))
            if count[0] < wanted:
                break
            after_fid = found[-1].fid
        return found

    def volumes(self) -> list[VolumeInfo]:
        """The volumes that can be read, ascending by id."""
        error = ffi.new("engine_error *")
        count = ffi.new("size_t *")
        room = 64
        while True:
            found = ffi.new("engine_volume[]", room)
            if lib.engine_volumes(self._handle, found, room, count, error) != lib.ENGINE_OK:
                _raise(error, 0, self._path)
            if count[0] <= room:
                return sorted((_volume_info(found[i]) for i in range(count[0])), key=lambda volume: volume.id)
            room = count[0] + 64  # ends: volumes are made slower than they are listed

    def needles(self, volume: int, after_offset: int = 0, limit: int = 1000) -> list[ChunkInfo]:
        """Up to ``limit`` live chunks of a volume that lie behind ``after_offset``, in the order of their places.

        Fewer only at the end. Raises VolumeNotFound.
        """
        if not 0 < volume <= _U32_MAX:
            raise VolumeNotFound(volume)
        found: list[ChunkInfo] = []
        error = ffi.new("engine_error *")
        count = ffi.new("size_t *")
        while len(found) < limit:
            wanted = min(limit - len(found), lib.ENGINE_ITERATE_MAX)
            chunks = ffi.new("engine_chunk[]", wanted)
            status = lib.engine_needles(self._handle, volume, after_offset, chunks, wanted, count, error)
            if status == lib.ENGINE_NOT_FOUND:
                raise VolumeNotFound(volume)
            if status != lib.ENGINE_OK:
                _raise(error, 0, self._path)
            found.extend(_chunk_info(chunks[i]) for i in range(count[0]))
            if count[0] < wanted:
                break
            after_offset = found[-1].offset
        return found

    def range_digests(self, first_fid: int, span_log2: int, count: int) -> list[RangeDigest]:
        """Digests of ``count`` (1 to RANGES_MAX) ranges of 2**``span_log2`` fids each, from ``first_fid`` on, which
        is a multiple of that. From memory, in one pass over all chunks."""
        if not (0 <= first_fid <= _U64_MAX and 0 <= span_log2 <= 63 and 1 <= count <= RANGES_MAX):
            raise EngineError(f"no ranges: {count} of 2**{span_log2} fids from {first_fid}")
        error = ffi.new("engine_error *")
        found = ffi.new("engine_range_digest[]", count)
        if lib.engine_range_digests(self._handle, first_fid, span_log2, found, count, error) != lib.ENGINE_OK:
            _raise(error, 0, self._path)
        return [_range_digest(found[i]) for i in range(count)]

    def stat(self) -> EngineStat:
        """State, space and counters."""
        stats = ffi.new("engine_stats *")
        error = ffi.new("engine_error *")
        if lib.engine_stat(self._handle, stats, error) != lib.ENGINE_OK:
            _raise(error, 0, self._path)
        return EngineStat(state=_STATES[stats.state], **{name: getattr(stats, name) for name in _STAT_FIELDS})

    def scrub_start(self) -> None:
        """Begins a new round of the scrub, whether or not one is under way."""
        error = ffi.new("engine_error *")
        if lib.engine_scrub_start(self._handle, error) != lib.ENGINE_OK:
            _raise(error, 0, self._path)

    def scrub_step(self, bytes_max: int, bytes_s: int = 0) -> ScrubProgress:
        """Goes on with the round under way: reads and verifies about ``bytes_max``.

        At most ``bytes_s`` bytes per second over all steps (0: as fast as it goes): returns at once when they are used
        up, and ``wait_s`` says for how long they are.
        """
        told = ffi.new("engine_scrub *")
        error = ffi.new("engine_error *")
        if lib.engine_scrub_step(self._handle, bytes_max, bytes_s, told, error) != lib.ENGINE_OK:
            _raise(error, 0, self._path)
        return _scrub_progress(told)

    def scrub_status(self) -> ScrubProgress:
        """How far the scrub is, without doing anything."""
        told = ffi.new("engine_scrub *")
        error = ffi.new("engine_error *")
        if lib.engine_scrub_status(self._handle, told, error) != lib.ENGINE_OK:
            _raise(error, 0, self._path)
        return _scrub_progress(told)

    def scrub_damage(self) -> list[Damage]:
        """What the scrub found damaged in this process and was not deleted or put again since; by volume and offset."""
        found = ffi.new("engine_damage[]", _DAMAGE_MAX)
        count = ffi.new("size_t *")
        error = ffi.new("engine_error *")
        if lib.engine_scrub_damage(self._handle, found, _DAMAGE_MAX, count, error) != lib.ENGINE_OK:
            _raise(error, 0, self._path)
        return sorted((_damage(found[i]) for i in range(count[0])), key=lambda damage: (damage.volume, damage.offset))

    def checkpoint(self) -> None:
        """Makes everything stored so far cheap to reopen, and returns the space of deleted chunks nobody reads."""
        error = ffi.new("engine_error *")
        if lib.engine_checkpoint(self._handle, error) != lib.ENGINE_OK:
            _raise(error, 0, self._path)

    def compact(self, below: float = 0.7, bytes_s: int = 0) -> CompactionReport:
        """Moves the live chunks out of volumes with a live share below ``below`` (0 < below <= 1), and removes these.

        Live share: of the space that a volume takes on the disk. Volumes to which somebody writes stay. Everything else
        goes on meanwhile. Writes at most ``bytes_s`` bytes a second (0: no bound). ``cancel_compaction`` or ``close``
        in another thread ends it early.
        Raises StoreBusy when one is under way, DiskFull, StoreFailed.
        """
        report = ffi.new("engine_compaction *")
        error = ffi.new("engine_error *")
        if lib.engine_compact(self._handle, below, bytes_s, report, error) != lib.ENGINE_OK:
            _raise(error, 0, self._path)
        return CompactionReport(
            chunks_copied=report.chunks_copied,
            bytes_copied=report.bytes_copied,
            bytes_given_back=report.bytes_given_back,
            volumes_removed=report.volumes_removed,
            volumes_made=report.volumes_made,
            volumes_damaged=report.volumes_damaged,
            stopped=bool(report.stopped),
        )

    def cancel_compaction(self) -> None:
        """Makes a ``compact`` in another thread return soon; what it has moved by then counts."""
        error = ffi.new("engine_error *")
        if lib.engine_compact_cancel(self._handle, error) != lib.ENGINE_OK:
            _raise(error, 0, self._path)

    def close(self) -> None:
        """Lets running calls end, writes what is queued and releases the directory; again is fine.

        Later calls raise EngineError. An error of the last checkpoint is raised after everything was released.
        """
        error = ffi.new("engine_error *")
        if lib.engine_close(self._handle, error) != lib.ENGINE_OK:
            _raise(error, 0, self._path)


def _chunk_info(chunk: Any) -> ChunkInfo:
    return ChunkInfo(chunk.fid, chunk.length, chunk.crc32c, chunk.volume, chunk.offset, float(chunk.created_s))


def _volume_info(volume: Any) -> VolumeInfo:
    return VolumeInfo(
        uuid=str(uuid.UUID(bytes=bytes(volume.uuid))),
        state=_VOLUME_STATES[volume.state],
        **{name: getattr(volume, name) for name in _VOLUME_FIELDS},
    )


def _range_digest(found: Any) -> RangeDigest:
    digest = f"{found.halves[0]:016x}{found.halves[1]:016x}"
    return RangeDigest(found.first_fid, found.chunks, found.payload_bytes, digest)


def _scrub_progress(told: Any) -> ScrubProgress:
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


def _damage(found: Any) -> Damage:
    what = ffi.string(found.what).decode("utf-8", "replace")
    return Damage(found.fid, found.volume, found.offset, found.length, what, float(found.found_s))


def crc32c(data: Buffer, crc: int = 0) -> int:
    """CRC32C (Castagnoli, RFC 3720) of ``data``, continuing ``crc``."""
    with ffi.from_buffer("uint8_t[]", data) as view:
        return lib.engine_crc32c(crc, view, len(view))


def crc32c_combine(crc_a: int, crc_b: int, length_b: int) -> int:
    """The CRC32C of A followed by B, from the CRC of each and the length of B in bytes."""
    return lib.engine_crc32c_combine(crc_a, crc_b, length_b)
