"""Disks: several stores of one ChunkServer as one, each on a disk of its own; what one of them suffers stays with it.

It is to callers what native.engine.Engine is. Volumes are numbered per disk: disk number x VOLUMES_PER_DISK + the id of
its file, so that 300000017 is v00000017 on disk 3.

A chunk lies on one disk: it is put where it is already, or on a disk that takes chunks, drawn by free space. Only when
its disk fails a second copy is put on another one. A disk that cannot be opened is down until the next start: what it
holds is unknown then, so "not found" is no answer of this server.
"""

from __future__ import annotations

import heapq
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from typing import Final, Protocol, TypeVar

from chunkserver.disk import HANG_S, VOLUMES_PER_DISK, Disk
from chunkserver.due_deletes import DueDeletes
from native.errors import ChunkCorrupt, ChunkNotFound, DiskFull, EngineError, StoreBusy, StoreFailed, VolumeNotFound
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

#: for how long a call that changes a fid may be under way before others that would change it are refused. No longer
#: than for a disk: those who wait for a chunk on one that hangs would take the threads that it leaves
TURN_S: Final = HANG_S
#: how long a disk may take to write its last checkpoint
CLOSE_WAIT_S: Final = 20.0

T = TypeVar("T")


class Chunks(Protocol):
    """What a ChunkServer needs of its store; described in native.engine.Engine."""

    def put(self, fid: int, payload: Buffer, crc32c: int) -> None: ...
    def read_into(self, fid: int, offset: int, buffer: bytearray | memoryview) -> int: ...
    def info(self, fid: int) -> ChunkInfo: ...
    def delete(self, fid: int) -> bool: ...
    def iterate(self, after_fid: int = 0, limit: int = 1000) -> list[ChunkInfo]: ...
    def volumes(self) -> list[VolumeInfo]: ...
    def needles(self, volume: int, after_offset: int = 0, limit: int = 1000) -> list[ChunkInfo]: ...
    def range_digests(self, first_fid: int, span_log2: int, count: int) -> list[RangeDigest]: ...
    def stat(self) -> EngineStat: ...
    def scrub_start(self) -> None: ...
    def scrub_step(self, bytes_max: int, bytes_s: int = 0) -> ScrubProgress: ...
    def scrub_status(self) -> ScrubProgress: ...
    def scrub_damage(self) -> list[Damage]: ...
    def verify(self, volume: int, offset: int, bytes_max: int) -> Verification: ...
    def compact(self, below: float = 0.7, bytes_s: int = 0, volumes: Sequence[int] = ()) -> CompactionReport: ...
    def cancel_compaction(self) -> None: ...
    def close(self) -> None: ...


class Disks:
    """`down`: why disks with chunks could not be opened, for messages; `unused`: how many others could not; `away`:
    where deletes are noted for disks with chunks that are not open. All are closed with it."""

    def __init__(
        self, disks: Sequence[Disk], down: Sequence[str] = (), unused: int = 0, away: Sequence[DueDeletes] = ()
    ) -> None:
        self._disks = tuple(disks)
        self._down = tuple(down)
        self._unused = unused
        self._away = tuple(away)
        self._turns = _Turns()
        self._cancelled = threading.Event()

    # -- chunks --------------------------------------------------------------------------------------------------------

    def put(self, fid: int, payload: Buffer, crc32c: int) -> None:
        with self._turns.of(fid):
            there = [disk for disk in self._disks if fid in disk]
            for disk in there:
                try:
                    disk.put(fid, payload, crc32c)
                    return
                except StoreFailed:
                    known = disk.info(fid)
                    if (known.length, known.crc32c) != (memoryview(payload).nbytes, crc32c):
                        raise
            self._put_new(fid, payload, crc32c, [disk for disk in self._disks if disk not in there])

    def _put_new(self, fid: int, payload: Buffer, crc32c: int, disks: Sequence[Disk]) -> None:
        """On a disk without the chunk. One that fails leaves it to the next."""
        trouble: EngineError = StoreFailed("no disk takes chunks any more")
        for disk in _drawn([disk for disk in disks if disk.may_take(fid)]):
            self._void_doubted(fid)
            try:
                disk.put(fid, payload, crc32c)
                return
            except (DiskFull, StoreBusy, StoreFailed) as exc:
                trouble = exc
        raise trouble

    def _void_doubted(self, fid: int) -> None:
        """Before the chunk is stored elsewhere: two copies of which one is of a call that failed need not be equal."""
        for disk in self._disks:
            if disk.doubts(fid):
                disk.void(fid)

    def read_into(self, fid: int, offset: int, buffer: bytearray | memoryview) -> int:
        return self._find(fid, lambda disk: disk.read_into(fid, offset, buffer))

    def info(self, fid: int) -> ChunkInfo:
        return self._find(fid, lambda disk: disk.info(fid))

    def _find(self, fid: int, ask: Callable[[Disk], T]) -> T:
        """What the disk with the chunk says; another copy is tried when one is corrupt, or its disk does not answer."""
        corrupt: ChunkCorrupt | None = None
        failed: StoreFailed | None = None
        for disk in self._disks:
            try:
                return ask(disk)
            except ChunkNotFound:
                continue
            except ChunkCorrupt as exc:
                corrupt = exc
                if disk.recent_stat().state == "failed":  # the disk is what is bad, and may be good after a restart
                    failed = StoreFailed(str(exc))
            except StoreFailed as exc:
                failed = exc
        if failed is not None:
            raise failed
        if corrupt is not None:
            raise corrupt
        if self._down:
            raise StoreFailed(f"chunk {fid} is on no disk that is open, and not all are: {'; '.join(self._down)}")
        raise ChunkNotFound(fid)

    def delete(self, fid: int) -> bool:
        """From all disks, also from those that are away. Of these nobody knows if they had it: they do not count."""
        removed = False
        trouble: EngineError | None = None
        with self._turns.of(fid):
            for disk in self._disks:
                try:
                    removed = disk.delete(fid) or removed
                except EngineError as exc:
                    trouble = exc
            if trouble is not None:
                raise trouble
            for due in self._away:
                due.note(fid)
        return removed

    def iterate(self, after_fid: int = 0, limit: int = 1000) -> list[ChunkInfo]:
        merged: list[ChunkInfo] = []
        for found in heapq.merge(*(disk.iterate(after_fid, limit) for disk in self._disks), key=lambda one: one.fid):
            if merged and merged[-1].fid == found.fid:
                continue
            merged.append(found)
            if len(merged) == limit:
                break
        return merged

    def range_digests(self, first_fid: int, span_log2: int, count: int) -> list[RangeDigest]:
        told = [disk.range_digests(first_fid, span_log2, count) for disk in self._disks]
        return [_sum_of_digests(same) for same in zip(*told, strict=True)]

    # -- volumes -------------------------------------------------------------------------------------------------------

    def volumes(self) -> list[VolumeInfo]:
        return [one for disk in self._disks for one in disk.volumes()]

    def needles(self, volume: int, after_offset: int = 0, limit: int = 1000) -> list[ChunkInfo]:
        disk, own = self._of_volume(volume)
        return _named(volume, lambda: disk.needles(own, after_offset, limit))

    def verify(self, volume: int, offset: int, bytes_max: int) -> Verification:
        disk, own = self._of_volume(volume)
        return _named(volume, lambda: disk.verify(own, offset, bytes_max))

    def compact(self, below: float = 0.7, bytes_s: int = 0, volumes: Sequence[int] = ()) -> CompactionReport:
        """One disk after the other; raises what the last one met when the others have been compacted."""
        wanted: dict[int, list[int]] = {}
        for volume in volumes:
            disk, own = self._of_volume(volume)
            wanted.setdefault(disk.number, []).append(own)
        self._cancelled.clear()
        trouble: EngineError | None = None
        reports: list[CompactionReport] = []
        for disk in self._disks:
            if self._cancelled.is_set():
                break
            if volumes and disk.number not in wanted:
                continue
            try:
                reports.append(disk.compact(below, bytes_s, wanted.get(disk.number, ())))
            except EngineError as exc:
                trouble = exc
        if trouble is not None:
            raise trouble
        return CompactionReport(
            **{name: sum(getattr(one, name) for one in reports) for name in _NUMBERS_OF_REPORT},
            stopped=self._cancelled.is_set() or any(one.stopped for one in reports),
        )

    def cancel_compaction(self) -> None:
        self._cancelled.set()
        for disk in self._disks:
            disk.cancel_compaction()

    def _of_volume(self, volume: int) -> tuple[Disk, int]:
        number, own = divmod(volume, VOLUMES_PER_DISK)
        disk = next((disk for disk in self._disks if disk.number == number), None)
        if disk is None or own == 0:
            raise VolumeNotFound(volume)
        return disk, own

    # -- state and scrub -----------------------------------------------------------------------------------------------

    def stat(self) -> EngineStat:
        stats = [disk.stat() for disk in self._disks]
        states = {stat.state for stat in stats}
        sums = {name: sum(getattr(stat, name) for stat in stats) for name in _NUMBERS_OF_STAT}
        under_way = self._scrubbed()
        sums["fid_max"] = max(stat.fid_max for stat in stats)
        sums["scrub_rounds"] = min(stat.scrub_rounds for stat in stats)
        sums["scrub_volume"] = under_way.volume
        sums["scrub_offset"] = under_way.offset
        # A disk that failed takes nothing, and what it has free is nobody's.
        sums["free_bytes"] = sum(stat.free_bytes for stat in stats if stat.state != "failed")
        state = next(state for state in ("rw", "ro_full", "failed") if state in states)
        return EngineStat(**sums, state=state)

    def count(self) -> tuple[int, int]:
        """How many disks there are, and how many of them are down or take no chunks since an I/O error."""
        failed = sum(disk.recent_stat().state == "failed" for disk in self._disks)
        closed = len(self._down) + self._unused
        return len(self._disks) + closed, failed + closed

    def scrub_start(self) -> None:
        """On every disk that can; raises what the last one met when none can."""
        trouble: EngineError | None = None
        begun = 0
        for disk in self._disks:
            try:
                disk.scrub_start()
                begun += 1
            except EngineError as exc:
                trouble = exc
        if begun == 0 and trouble is not None:
            raise trouble

    def scrub_step(self, bytes_max: int, bytes_s: int = 0) -> ScrubProgress:
        """One disk after the other, so the rate is one for all. A disk whose step fails lets the next one go first."""
        trouble: EngineError | None = None
        for disk in self._disks:
            if not disk.scrub_status().active:
                continue
            try:
                wait_s = disk.scrub_step(bytes_max, bytes_s).wait_s
            except EngineError as exc:
                trouble = exc
                continue
            return replace(self._scrubbed(), wait_s=wait_s)
        if trouble is not None:
            raise trouble
        return self._scrubbed()

    def scrub_status(self) -> ScrubProgress:
        return self._scrubbed()

    def _scrubbed(self) -> ScrubProgress:
        every = [disk.scrub_status() for disk in self._disks]
        now = next((one for one in every if one.active), every[-1])
        return ScrubProgress(
            round=max(one.round for one in every),
            active=now.active,
            started_s=max(one.started_s for one in every),
            ended_s=min(one.ended_s for one in every),
            total_bytes=sum(one.total_bytes for one in every),
            checked_bytes=sum(one.checked_bytes for one in every),
            checked_chunks=sum(one.checked_chunks for one in every),
            damaged=sum(one.damaged for one in every),
            volume=now.volume,
            offset=now.offset,
            wait_s=now.wait_s,
        )

    def scrub_damage(self) -> list[Damage]:
        return [found for disk in self._disks for found in disk.scrub_damage()]

    def close(self) -> None:
        """All disks at once, since one may hang; the first error is raised at the end. What a disk that hangs was told
        is on it: only its next opening takes longer."""
        errors: list[EngineError] = []

        def close(disk: Disk) -> None:
            try:
                disk.close()
            except EngineError as exc:
                errors.append(exc)

        closing: list[tuple[Disk, threading.Thread]] = []
        for disk in self._disks:
            thread = threading.Thread(target=close, args=(disk,), name="close", daemon=True)
            try:
                thread.start()
            except RuntimeError:
                close(disk)  # no thread to be had: one after the other
            else:
                closing.append((disk, thread))
        deadline_s = time.monotonic() + CLOSE_WAIT_S
        for disk, thread in closing:
            thread.join(max(0.0, deadline_s - time.monotonic()))
            if thread.is_alive():
                errors.append(StoreFailed(f"{disk.path}: not closed within {CLOSE_WAIT_S:g} s"))
        for due in self._away:
            due.close()
        if errors:
            raise errors[0]


class _Turns:
    """Two calls that change one fid come one after the other, or a chunk could end on two disks."""

    def __init__(self) -> None:
        self._begun: dict[int, float] = {}  # when the call came whose turn it is
        self._changed = threading.Condition()

    @contextmanager
    def of(self, fid: int) -> Iterator[None]:
        with self._changed:
            left_s = TURN_S - self._taken_s(fid)
            if not self._changed.wait_for(lambda: fid not in self._begun, max(0.0, left_s)):
                raise StoreBusy(
                    f"chunk {fid} is being stored or deleted by another call for {self._taken_s(fid):.0f} s"
                )
            self._begun[fid] = time.monotonic()
        try:
            yield
        finally:
            with self._changed:
                del self._begun[fid]
                self._changed.notify_all()

    def _taken_s(self, fid: int) -> float:
        """For how long another call has had the turn; 0.0: none has it."""
        return time.monotonic() - self._begun[fid] if fid in self._begun else 0.0


def _drawn(disks: Sequence[Disk]) -> list[Disk]:
    """Those that may take a chunk in a random order: those with more free space are more often first. Slow ones come
    later, and full ones last: their own answer says what is missing."""
    keyed = []
    for disk in disks:
        stat = disk.recent_stat()
        if stat.state != "failed":
            # Weighted sampling without replacement (Efraimidis and Spirakis, 2006), as logarithms: near 1 their keys
            # differ by less than a float can tell.
            key = -random.expovariate(max(1, stat.free_bytes))
            keyed.append((stat.state == "rw", not disk.is_slow, key, disk.number, disk))
    return [disk for *_, disk in sorted(keyed, reverse=True)]


_NUMBERS_OF_STAT: Final = tuple(one.name for one in fields(EngineStat) if one.name != "state")
_NUMBERS_OF_REPORT: Final = tuple(one.name for one in fields(CompactionReport) if one.name != "stopped")


def _named(volume: int, call: Callable[[], T]) -> T:
    """An error tells the volume's number outside."""
    try:
        return call()
    except VolumeNotFound:
        raise VolumeNotFound(volume) from None


def _sum_of_digests(same: Sequence[RangeDigest]) -> RangeDigest:
    """As native/src/range_digest.c adds chunks: two numbers modulo 2**64."""
    halves = [sum(int(one.digest[at : at + 16], 16) for one in same) % 2**64 for at in (0, 16)]
    return RangeDigest(
        same[0].first_fid,
        sum(one.chunks for one in same),
        sum(one.payload_bytes for one in same),
        f"{halves[0]:016x}{halves[1]:016x}",
    )
