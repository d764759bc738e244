"""The Python face of the storage engine; the manual is include/engine.h.

This is the only module that touches the compiled one. Every call releases the GIL and may come from any thread. Payload
buffers are read and filled in place, never copied and never kept after the call.

Errors::

    EngineError
    ├── ChunkNotFound     no such fid
    ├── ChunkExists       the fid holds other bytes
    ├── ChunkCorrupt      this copy cannot be read or fails its checksum
    ├── ChecksumMismatch  the payload given to put does not match its crc32c
    ├── DiskFull          no space above the reserve
    ├── StoreFailed       fail-stop after an I/O error; the call is not acknowledged
    ├── StoreBusy         too many bytes wait; try again later
    ├── StoreLocked       another process has the directory open
    ├── StoreMismatch     other cluster, newer format, or not a store
    └── RangeInvalid      beyond the end of a chunk, or longer than a chunk may be
"""

import os
import threading
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from native._engine import ffi, lib

Buffer = bytes | bytearray | memoryview

CHUNK_BYTES_MAX: Final = lib.ENGINE_CHUNK_BYTES_MAX
FORMAT: Final = lib.ENGINE_FORMAT
_U64_MAX: Final = (1 << 64) - 1
_U32_MAX: Final = (1 << 32) - 1
_STATES: Final = {
    lib.ENGINE_STATE_RW: "rw",
    lib.ENGINE_STATE_RO_FULL: "ro_full",
    lib.ENGINE_STATE_FAILED: "failed",
}
_KINDS: Final = {"sha256": lib.ENGINE_SHA256, "sha512": lib.ENGINE_SHA512}
_ALGORITHMS: Final = {kind: algorithm for algorithm, kind in _KINDS.items()}


class EngineError(Exception):
    """Base of all engine errors, and itself: a closed engine, an argument that is never valid, no memory."""


class ChunkNotFound(EngineError):
    """There is no chunk with this fid."""

    def __init__(self, fid: int) -> None:
        super().__init__(f"no chunk {fid}")
        self.fid = fid


class ChunkExists(EngineError):
    """The fid is taken by other bytes."""

    def __init__(self, fid: int) -> None:
        super().__init__(f"chunk {fid} exists with other bytes")
        self.fid = fid


class ChunkCorrupt(EngineError):
    """The stored copy cannot be read or fails its checksum; another replica may be good."""

    def __init__(self, fid: int, detail: str) -> None:
        super().__init__(f"chunk {fid} is corrupt: {detail}")
        self.fid = fid
        self.detail = detail


class ChecksumMismatch(EngineError):
    """The payload given to put does not have the CRC32C that came with it."""

    def __init__(self, expected: int, actual: int) -> None:
        super().__init__(f"payload has CRC32C {actual:08x}, announced was {expected:08x}")
        self.expected = expected
        self.actual = actual


class DiskFull(EngineError):
    """No space above the reserve. Reads and deletes still work."""


class StoreFailed(EngineError):
    """Fail-stop after an I/O error. The call is not acknowledged; whether its bytes are there is unknown."""


class StoreBusy(EngineError):
    """More bytes wait to be written than options.queue_bytes_max; try again later."""


class StoreLocked(EngineError):
    """Another process has the directory open."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"{path} is in use by another process")
        self.path = path


class StoreMismatch(EngineError):
    """The directory is not this store: other cluster, newer format, or no store where one was expected."""


class RangeInvalid(EngineError):
    """A range beyond the end of the chunk, or a chunk longer than CHUNK_BYTES_MAX."""


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """How a store is opened. Sizes in bytes, times in seconds.

    ``cluster_id`` is a UUID; a directory of another cluster is refused. ``reserve_bytes`` None means the larger of 1 %
    of the file system and two volumes. ``create`` False refuses a directory without a store: a disk that is not mounted
    is noticed. ``sync`` False acknowledges before the bytes are durable. ``appenders`` threads (1 to 8) write at once,
    each to a volume of its own.
    """

    cluster_id: str
    volume_size_first: int = 64 << 20
    volume_size_max: int = 1 << 30
    reserve_bytes: int | None = None
    sync: bool = True
    create: bool = True
    queue_bytes_max: int = 256 << 20
    queue_timeout_s: float = 30.0
    appenders: int = 1
    checkpoint_bytes: int = 256 << 20
    checkpoint_s: float = 60.0
    lock_timeout_s: float = 0.0


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
    checkpoints: int
    checkpoint_failures: int
    queued_bytes: int
    index_bytes: int
    volumes: int
    volumes_failed: int
    volumes_quarantined: int
    unknown_files: int
    damaged_records: int
    state: str


_STAT_FIELDS: Final = tuple(name for name in EngineStat.__dataclass_fields__ if name != "state")


def _raise(error: Any, fid: int, path: Path) -> None:
    code = error.code
    detail = ffi.string(error.detail).decode("utf-8", "replace")
    if code == lib.ENGINE_NOT_FOUND:
        raise ChunkNotFound(fid)
    if code == lib.ENGINE_EXISTS:
        raise ChunkExists(fid)
    if code == lib.ENGINE_CORRUPT:
        raise ChunkCorrupt(fid, detail)
    if code == lib.ENGINE_CHECKSUM:
        raise ChecksumMismatch(error.expected, error.actual)
    if code == lib.ENGINE_DISK_FULL:
        raise DiskFull(f"{path}: {detail}")
    if code == lib.ENGINE_FAILED:
        raise StoreFailed(f"{path}: {detail}")
    if code == lib.ENGINE_BUSY:
        raise StoreBusy(f"{path}: {detail}")
    if code == lib.ENGINE_LOCKED:
        raise StoreLocked(path)
    if code == lib.ENGINE_MISMATCH:
        raise StoreMismatch(f"{path}: {detail}")
    if code == lib.ENGINE_RANGE:
        raise RangeInvalid(detail)
    raise EngineError(f"{path}: {detail}")


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
        if options.create:
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
        native.sync = options.sync
        native.create = options.create
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

    def stat(self) -> EngineStat:
        """State, space and counters."""
        stats = ffi.new("engine_stats *")
        error = ffi.new("engine_error *")
        if lib.engine_stat(self._handle, stats, error) != lib.ENGINE_OK:
            _raise(error, 0, self._path)
        return EngineStat(state=_STATES[stats.state], **{name: getattr(stats, name) for name in _STAT_FIELDS})

    def checkpoint(self) -> None:
        """Makes everything stored so far cheap to reopen, and returns the space of deleted chunks nobody reads."""
        error = ffi.new("engine_error *")
        if lib.engine_checkpoint(self._handle, error) != lib.ENGINE_OK:
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


def crc32c(data: Buffer, crc: int = 0) -> int:
    """CRC32C (Castagnoli, RFC 3720) of ``data``, continuing ``crc``."""
    with ffi.from_buffer("uint8_t[]", data) as view:
        return lib.engine_crc32c(crc, view, len(view))


def crc32c_combine(crc_a: int, crc_b: int, length_b: int) -> int:
    """The CRC32C of A followed by B, from the CRC of each and the length of B in bytes."""
    return lib.engine_crc32c_combine(crc_a, crc_b, length_b)


class Digest:
    """SHA-256 or SHA-512 whose state can be stored and continued in another process.

    ``update`` releases the GIL. Calls on one object are serialised.
    """

    __slots__ = ("_handle", "_lock", "algorithm")

    def __init__(self, algorithm: str) -> None:
        if algorithm not in _KINDS:
            raise ValueError(f"unknown digest algorithm {algorithm!r}: one of {', '.join(_KINDS)}")
        self._adopt(lib.engine_digest_new(_KINDS[algorithm]), algorithm)

    def _adopt(self, handle: Any, algorithm: str) -> None:
        if handle == ffi.NULL:
            raise MemoryError("no memory for a digest")
        self.algorithm = algorithm
        self._handle = ffi.gc(handle, lib.engine_digest_free)
        self._lock = threading.Lock()

    @property
    def length(self) -> int:
        """Bytes hashed so far."""
        with self._lock:
            return lib.engine_digest_length(self._handle)

    def update(self, data: Buffer) -> None:
        """Hashes ``data``, which the caller must not change meanwhile."""
        with self._lock, ffi.from_buffer("uint8_t[]", data) as view:
            if lib.engine_digest_update(self._handle, view, len(view)) != 0:
                raise ValueError("the message is longer than the digest allows")

    def copy(self) -> "Digest":
        """An independent digest that continues from here."""
        other = Digest.__new__(Digest)
        with self._lock:
            other._adopt(lib.engine_digest_copy(self._handle), self.algorithm)
        return other

    def hexdigest(self) -> str:
        """The digest of what was hashed so far, lower case; more may follow."""
        text = ffi.new("char[]", lib.ENGINE_DIGEST_HEX_BYTES)
        with self._lock:
            if lib.engine_digest_hex(self._handle, text) != 0:
                raise EngineError("libcrypto could not finish a digest")
        return ffi.string(text).decode("ascii")

    def export_state(self) -> bytes:
        """The state as bytes with version and checksum; import_state continues from it, on any machine."""
        state = ffi.new("uint8_t[]", lib.ENGINE_DIGEST_STATE_BYTES)
        with self._lock:
            lib.engine_digest_export(self._handle, state)
        return bytes(ffi.buffer(state))

    @classmethod
    def import_state(cls, state: bytes) -> "Digest":
        """A digest that continues from an exported state. ValueError when it is damaged or of another version."""
        with ffi.from_buffer("uint8_t[]", state) as view:
            handle = lib.engine_digest_import(view, len(view))
        if handle == ffi.NULL:
            raise ValueError("the digest state is damaged or of an unknown version")
        digest = cls.__new__(cls)
        digest._adopt(handle, _ALGORITHMS[lib.engine_digest_kind_of(handle)])
        return digest
