"""The Python face of the storage engine; the manual is include/engine.h.

Every call releases the GIL and may come from any thread. Payload buffers are read and filled in place, never copied
and never kept after the call. What a call answers is in values.py, what it raises in errors.py.
"""

import os
import uuid
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from native import answers
from native._engine import ffi, lib
from native.errors import ChunkNotFound, EngineError, RangeInvalid, VolumeNotFound
from native.values import (
    Buffer,
    ChunkInfo,
    CompactionReport,
    Damage,
    EngineStat,
    RangeDigest,
    ScrubProgress,
    Verification,
    VolumeInfo,
)

CHUNK_BYTES_MAX: Final = lib.ENGINE_CHUNK_BYTES_MAX
PUT_MANY_MAX: Final = lib.ENGINE_PUT_MANY_MAX
FORMAT: Final = lib.ENGINE_FORMAT
_U64_MAX: Final = (1 << 64) - 1
_U32_MAX: Final = (1 << 32) - 1
_DAMAGE_MAX: Final = 1024  # as many as the engine keeps
_VERIFY_DAMAGE_MAX: Final = 64  # of one call: the next one goes on behind
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
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
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
            raise answers.error_of(error, 0, directory)
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
            raise answers.error_of(error, fid, self._path)

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
            None if item.status == lib.ENGINE_OK else answers.error_of(error, item.fid, self._path)
            for item, error in zip(items, errors, strict=True)
        ]

    def read_into(self, fid: int, offset: int, buffer: bytearray | memoryview) -> int:
        """Fills the writable ``buffer`` with exactly its length of payload bytes from ``offset``, verified; the
        CRC-32C of these bytes, computed from the buffer.

        On an error its content is undefined. Raises ChunkNotFound, RangeInvalid, ChunkCorrupt.
        """
        if not 0 <= offset <= _U64_MAX:
            raise RangeInvalid(f"offset {offset} of chunk {fid}")
        error = ffi.new("engine_error *")
        crc = ffi.new("uint32_t *")
        with ffi.from_buffer("uint8_t[]", buffer, require_writable=True) as view:
            status = lib.engine_read(self._handle, _checked_fid(fid), offset, view, len(view), crc, error)
        if status != lib.ENGINE_OK:
            raise answers.error_of(error, fid, self._path)
        return int(crc[0])

    def info(self, fid: int) -> ChunkInfo:
        """Describes a chunk without reading it. Raises ChunkNotFound."""
        chunk = ffi.new("engine_chunk *")
        error = ffi.new("engine_error *")
        if lib.engine_info(self._handle, _checked_fid(fid), chunk, error) != lib.ENGINE_OK:
            raise answers.error_of(error, fid, self._path)
        return answers.chunk_info(chunk)

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
            raise answers.error_of(error, fid, self._path)
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
                raise answers.error_of(error, after_fid, self._path)
            found.extend(answers.chunk_info(chunks[i]) for i in range(count[0]))
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
                raise answers.error_of(error, 0, self._path)
            if count[0] <= room:
                return sorted((answers.volume_info(found[i]) for i in range(count[0])), key=lambda volume: volume.id)
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
                raise answers.error_of(error, 0, self._path)
            found.extend(answers.chunk_info(chunks[i]) for i in range(count[0]))
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
            raise answers.error_of(error, 0, self._path)
        return [answers.range_digest(found[i]) for i in range(count)]

    def stat(self) -> EngineStat:
        """State, space and counters."""
        stats = ffi.new("engine_stats *")
        error = ffi.new("engine_error *")
        if lib.engine_stat(self._handle, stats, error) != lib.ENGINE_OK:
            raise answers.error_of(error, 0, self._path)
        return answers.engine_stat(stats)

    def scrub_start(self) -> None:
        """Begins a new round of the scrub, whether or not one is under way."""
        error = ffi.new("engine_error *")
        if lib.engine_scrub_start(self._handle, error) != lib.ENGINE_OK:
            raise answers.error_of(error, 0, self._path)

    def scrub_step(self, bytes_max: int, bytes_s: int = 0) -> ScrubProgress:
        """Goes on with the round under way: reads and verifies about ``bytes_max``.

        At most ``bytes_s`` bytes per second over all steps (0: as fast as it goes): returns at once when they are used
        up, and ``wait_s`` says for how long they are.
        """
        told = ffi.new("engine_scrub *")
        error = ffi.new("engine_error *")
        if lib.engine_scrub_step(self._handle, bytes_max, bytes_s, told, error) != lib.ENGINE_OK:
            raise answers.error_of(error, 0, self._path)
        return answers.scrub_progress(told)

    def scrub_status(self) -> ScrubProgress:
        """How far the scrub is, without doing anything."""
        told = ffi.new("engine_scrub *")
        error = ffi.new("engine_error *")
        if lib.engine_scrub_status(self._handle, told, error) != lib.ENGINE_OK:
            raise answers.error_of(error, 0, self._path)
        return answers.scrub_progress(told)

    def scrub_damage(self) -> list[Damage]:
        """What the scrub found damaged in this process and was not deleted or put again since; by volume and offset."""
        found = ffi.new("engine_damage[]", _DAMAGE_MAX)
        count = ffi.new("size_t *")
        error = ffi.new("engine_error *")
        if lib.engine_scrub_damage(self._handle, found, _DAMAGE_MAX, count, error) != lib.ENGINE_OK:
            raise answers.error_of(error, 0, self._path)
        damage = [answers.damage(found[i]) for i in range(count[0])]
        return sorted(damage, key=lambda one: (one.volume, one.offset))

    def verify(self, volume: int, offset: int, bytes_max: int) -> Verification:
        """Reads and verifies the live chunks of a volume that lie at ``offset`` (0 to begin) or behind, past the page
        cache, until about ``bytes_max`` were read or some were found damaged.

        Raises VolumeNotFound, also when compaction has moved the volume's chunks meanwhile (it verifies them too).
        """
        if not (0 < volume <= _U32_MAX and 0 <= offset <= _U64_MAX):
            raise VolumeNotFound(volume)
        told = ffi.new("engine_verification *")
        found = ffi.new("engine_damage[]", _VERIFY_DAMAGE_MAX)
        error = ffi.new("engine_error *")
        told.offset = offset
        status = lib.engine_verify(self._handle, volume, bytes_max, told, found, _VERIFY_DAMAGE_MAX, error)
        if status == lib.ENGINE_NOT_FOUND:
            raise VolumeNotFound(volume)
        if status != lib.ENGINE_OK:
            raise answers.error_of(error, 0, self._path)
        return answers.verification(told, found)

    def checkpoint(self) -> None:
        """Makes everything stored so far cheap to reopen, and returns the space of deleted chunks nobody reads."""
        error = ffi.new("engine_error *")
        if lib.engine_checkpoint(self._handle, error) != lib.ENGINE_OK:
            raise answers.error_of(error, 0, self._path)

    def compact(self, below: float = 0.7, bytes_s: int = 0, volumes: Sequence[int] = ()) -> CompactionReport:
        """Moves the live chunks out of volumes with a live share below ``below`` (0 < below <= 1), and removes these.
        With ``volumes``: out of these only, whatever their live share is.

        Live share: of the space that a volume takes on the disk. Volumes to which somebody writes stay. Everything else
        goes on meanwhile. Writes at most ``bytes_s`` bytes a second (0: no bound). ``cancel_compaction`` or ``close``
        in another thread ends it early.
        Raises StoreBusy when one is under way, DiskFull, StoreFailed.
        """
        if not all(0 < volume <= _U32_MAX for volume in volumes):
            raise VolumeNotFound(next(volume for volume in volumes if not 0 < volume <= _U32_MAX))
        terms = ffi.new("engine_compaction_terms *")
        ids = ffi.new("uint32_t[]", list(volumes))
        terms.below, terms.bytes_s = below, bytes_s
        terms.volumes, terms.volume_count = ids if volumes else ffi.NULL, len(volumes)
        report = ffi.new("engine_compaction *")
        error = ffi.new("engine_error *")
        if lib.engine_compact(self._handle, terms, report, error) != lib.ENGINE_OK:
            raise answers.error_of(error, 0, self._path)
        return answers.compaction_report(report)

    def cancel_compaction(self) -> None:
        """Makes a ``compact`` in another thread return soon; what it has moved by then counts."""
        error = ffi.new("engine_error *")
        if lib.engine_compact_cancel(self._handle, error) != lib.ENGINE_OK:
            raise answers.error_of(error, 0, self._path)

    def close(self) -> None:
        """Lets running calls end, writes what is queued and releases the directory; again is fine.

        Later calls raise EngineError. An error of the last checkpoint is raised after everything was released.
        """
        error = ffi.new("engine_error *")
        if lib.engine_close(self._handle, error) != lib.ENGINE_OK:
            raise answers.error_of(error, 0, self._path)


def _checked_fid(fid: int) -> int:
    if not 0 < fid <= _U64_MAX:
        raise EngineError(f"{fid} is not a fid: 1 .. 2**64 - 1")
    return fid
