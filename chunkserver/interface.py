"""Contract of a ChunkServer: it keeps chunks (write-once byte strings named by a fid) on one disk or several.

Satisfied by chunkserver.core.LocalChunkStore (in process, over the C engine) and chunkserver.client.HttpChunkStore;
both pass tests/contracts/test_chunk_store.py and tests/contracts/test_chunk_upkeep.py.

Terms. fid: unsigned 64-bit number, never 0, never reused. crc32c: CRC-32C (Castagnoli, RFC 3720) of the payload as an
unsigned 32-bit number. A buffer passed in is only used during the call: no implementation keeps a reference to it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from native.values import Damage, RangeDigest, VolumeInfo

#: largest payload of one chunk, bytes
CHUNK_BYTES_MAX = 64 * 1024 * 1024

Buffer = bytes | bytearray | memoryview

StoreState = Literal["rw", "ro_full", "failed"]

#: running: a round is under way; paused: stopped until it is started by hand; idle: waits for the next round;
#: off: runs only when it is asked to
ScrubState = Literal["running", "paused", "idle", "off"]


@dataclass(frozen=True, slots=True)
class ChunkInfo:
    """A stored chunk. `volume` and `offset` (bytes) say where in this server's data directory its needle lies,
    `created_s` (Unix time) when it was put."""

    fid: int
    length: int
    crc32c: int
    volume: int
    offset: int
    created_s: float = 0.0


@dataclass(frozen=True, slots=True)
class StoreStat:
    """What one ChunkServer tells of itself; sizes in bytes. `fid_max` is the highest fid it has ever seen.

    Since its start, compaction has written `compacted_bytes` and made the file system `given_back_bytes` richer.
    `volumes_failed` and `volumes_quarantined` are read, but take no chunks; `damaged` places are known to be bad and
    not yet put again or deleted; `scrubbed_s` is when the last whole round of the scrub ended, Unix time, 0.0: never.
    `disks_failed` of its `disks` could not be opened, or take no chunks since an I/O error; `state` is the others'.
    """

    server_id: str
    state: StoreState
    chunks: int
    live_bytes: int
    dead_bytes: int
    free_bytes: int
    total_bytes: int
    volumes: int
    volumes_failed: int
    fid_max: int
    compactions: int = 0
    compaction_failures: int = 0
    compacted_bytes: int = 0
    given_back_bytes: int = 0
    volumes_quarantined: int = 0
    damaged: int = 0
    scrubbed_s: float = 0.0
    disks: int = 1
    disks_failed: int = 0


@dataclass(frozen=True, slots=True)
class ScrubStatus:
    """How the scrub is. `round` (from 1; 0: none yet) is the one under way or the last, `rounds` how many have ended.

    Times are Unix time, 0.0 for never; `ended_s` is of the last whole round. `checked_bytes` (of `total_bytes` live
    ones), `checked_chunks` and `damaged` are of this round; it goes on at `offset` of `volume`, at `bytes_s` bytes per
    second. `known_damaged` counts all places that are known to be bad, of which `damage` lists up to 1,024; a chunk
    leaves it by being put again or deleted.
    """

    state: ScrubState
    round: int
    rounds: int
    started_s: float
    ended_s: float
    total_bytes: int
    checked_bytes: int
    checked_chunks: int
    damaged: int
    volume: int
    offset: int
    bytes_s: int
    known_damaged: int
    damage: tuple[Damage, ...]


OperationKind = Literal["verify", "compaction"]

#: stopped: before it was done, because somebody said so or nobody asked for it any more; failed: `trouble` says why
OperationState = Literal["running", "done", "stopped", "failed"]


@dataclass(frozen=True, slots=True)
class Operation:
    """Something that an operator has started and that takes long. Sizes in bytes, times are Unix time, 0.0 for not yet.

    `volumes` are those that were named, () for all; `bytes_s` is the rate, 0 for none. `done_bytes` of `total_bytes`
    live ones (of a compaction, those that it seemed to have to copy when it began) and `chunks` have been verified, or
    copied. `damaged` counts the damaged places that a verification found, of which `damage` lists up to 1,024. A
    compaction made the file system `given_back_bytes` richer, by what its files really take; `volumes_damaged` hold
    damaged chunks and stay as they are. `volumes_gone` were compacted while they were verified, which verifies them
    too; `volumes_left` were named and are still there.
    """

    id: str
    kind: OperationKind
    state: OperationState
    volumes: tuple[int, ...]
    bytes_s: int
    started_s: float
    ended_s: float = 0.0
    trouble: str = ""
    total_bytes: int = 0
    done_bytes: int = 0
    chunks: int = 0
    damaged: int = 0
    damage: tuple[Damage, ...] = ()
    given_back_bytes: int = 0
    volumes_removed: int = 0
    volumes_made: int = 0
    volumes_damaged: int = 0
    volumes_gone: tuple[int, ...] = ()
    volumes_left: tuple[int, ...] = ()


class ChunkStore(Protocol):
    """All methods are thread-safe and harmless to repeat. All raise BadRequest for numbers that are out of range, and
    Unavailable when the store is closed or cannot be reached."""

    def put(self, fid: int, payload: Buffer, crc32c: int) -> None:
        """Store `payload` under `fid`; returns once it is durable (written and fdatasync'ed).

        The same fid with the same bytes again succeeds. Raises ChecksumMismatch when the payload's CRC-32C is not
        `crc32c`, ChunkConflict when other bytes are stored under the fid, PayloadTooLarge, StorageFull, Overloaded
        (admission bound), Unavailable (the disk failed).
        """
        ...

    def read_into(self, fid: int, offset: int, buffer: bytearray | memoryview) -> int:
        """Fill `buffer` exactly with the chunk's bytes from `offset` on, verified before this returns; the CRC-32C of
        what is in `buffer` now, computed from there and not taken from elsewhere.

        Raises ChunkNotFound, RangeNotSatisfiable (asks beyond the end), ChunkUnreadable (stored bytes are damaged).
        """
        ...

    def info(self, fid: int) -> ChunkInfo:
        """Raises ChunkNotFound."""
        ...

    def delete(self, fid: int) -> bool:
        """Remove a chunk durably; True if it was there. Raises StorageFull (not even that fits on
        the disk), Unavailable (the disk failed, or a volume cannot be read now and it cannot be recorded that the
        chunk is not to come back with it)."""
        ...

    def list_chunks(self, after_fid: int = 0, limit: int = 1000) -> list[ChunkInfo]:
        """Chunks with fid > after_fid in ascending order, at most `limit` (1 to 10,000)."""
        ...

    def stat(self) -> StoreStat:
        """Space and state, as told to the ChunkMaster in heartbeats."""
        ...


class ChunkUpkeep(Protocol):
    """What operators and repair ask of a ChunkServer beyond its chunks. All methods are thread-safe and harmless to
    repeat; only the scrub and operations read payload.

    One operation runs at a time. Its id is the caller's choice (1 to 64 letters, digits and "-"), so that the call that
    starts it may be repeated. It ends with the server's process, or when nobody has asked for it for five minutes.
    """

    def volumes(self) -> list[VolumeInfo]:
        """The volumes that can be read, ascending by id."""
        ...

    def volume_chunks(self, volume: int, after_offset: int = 0, limit: int = 1000) -> list[ChunkInfo]:
        """Live chunks of a volume with offset > after_offset in the order of their places, at most `limit` (bounded by
        10,000). Raises VolumeNotFound."""
        ...

    def range_digests(self, first_fid: int, span_log2: int, count: int) -> list[RangeDigest]:
        """Digests over the live chunks of `count` (1 to 4,096) ranges of 2**span_log2 (0 to 63) fids each, from
        `first_fid` on, which is a multiple of that: equal in two servers if and only if they hold the same fids with
        the same bytes. Raises BadRequest for ranges that do not exist."""
        ...

    def scrub_status(self) -> ScrubStatus: ...

    def start_scrub(self, *, fresh: bool = False, bytes_s: int | None = None) -> ScrubStatus:
        """Let the scrub go on now, after stop_scrub too; without a round under way, or with `fresh`, a new one begins.

        `bytes_s` is the rate of this round, bytes per second (None: the usual one). Raises BadRequest when there is
        none.
        """
        ...

    def stop_scrub(self) -> ScrubStatus:
        """Pause until start_scrub or a restart; where it stopped is kept."""
        ...

    def start_verify(
        self, operation_id: str, volumes: tuple[int, ...] = (), *, bytes_s: int | None = None
    ) -> Operation:
        """Begin to read and verify the live chunks of these volumes (none named: of all that there are now), past the
        page cache and apart from the rounds of the scrub.

        `bytes_s` is the rate in bytes per second, 0 for none, None for that of the scrub. Raises VolumeNotFound,
        Conflict while another operation runs, BadRequest for a malformed id or rate, and when the scrub has no rate.
        """
        ...

    def start_compaction(
        self,
        operation_id: str,
        volumes: tuple[int, ...] = (),
        *,
        below: float | None = None,
        bytes_s: int | None = None,
    ) -> Operation:
        """Begin to compact these volumes whatever they hold; none named: all with a live share below `below` (above 0,
        at most 1; None: the server's own).

        `bytes_s` bounds what is written per second, 0: nothing does, None: the server's own bound. Raises as
        start_verify.
        """
        ...

    def operation(self, operation_id: str) -> Operation:
        """How the operation is: the one that runs, or the last one. Raises OperationNotFound for any other; after a
        restart for all."""
        ...

    def stop_operation(self, operation_id: str) -> Operation:
        """End it early: what it has done by then counts. Returns when it has ended, or after five seconds. Raises as
        `operation`."""
        ...


class ChunkServer(ChunkStore, ChunkUpkeep, Protocol):
    """All of it."""
