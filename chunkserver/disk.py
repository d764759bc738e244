"""Disk: one of several stores of a ChunkServer, and whether its disk still answers.

A call on a disk that hangs returns when the disk does, maybe never, and its thread with it. So that a disk takes no
more than a share of the server's threads, calls are counted: beyond CALLS_MAX they wait, and when one has been under
way for HANG_S all others are refused until it ends. What is answered from memory is never held up.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

from chunkserver.due_deletes import DueDeletes
from native.engine import Engine
from native.errors import ChunkNotFound, StoreFailed
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

VOLUMES_PER_DISK: Final = 100_000_000

#: half of the threads that a ChunkServer usually has
CALLS_MAX: Final = 16
#: less than an ImageServer waits for a write: it hears of the disk, and not of silence
HANG_S: Final = 5.0
#: puts go elsewhere, if they can
SLOW_S: Final = 1.0
#: how old the state and the free space may be by which a disk is drawn
STAT_KEPT_S: Final = 1.0


class Disk:
    """`number` names its volumes and never changes. Owns the engine and `due`.

    The caller lets calls that change one fid come one after the other.
    """

    def __init__(self, number: int, path: Path, engine: Engine, due: DueDeletes) -> None:
        self.number = number
        self.path = path
        self._engine = engine
        self._due = due
        self._begun: dict[object, float] = {}  # calls under way, the oldest first
        self._changed = threading.Condition()  # guards _begun
        self._doubted: set[int] = set()  # few: a store meets some errors, then it takes no more puts
        self._void: set[int] = set()  # on record in `due`: not here any more, whatever the engine has
        # Guarded by nothing: whoever is late draws by older numbers.
        self._stat = engine.stat()
        self._stat_s = time.monotonic()

    # -- does it answer ------------------------------------------------------------------------------------------------

    def waited_s(self) -> float:
        """For how long the oldest call has been under way; 0.0: there is none."""
        with self._changed:
            return self._oldest_s()

    @property
    def hangs(self) -> bool:
        return self.waited_s() >= HANG_S

    @property
    def is_slow(self) -> bool:
        with self._changed:
            return len(self._begun) >= CALLS_MAX or self._oldest_s() >= SLOW_S

    @contextmanager
    def _call(self) -> Iterator[None]:
        """Around whatever reads or writes the disk. Raises StoreFailed when it hangs."""
        call = object()
        with self._changed:
            self._changed.wait_for(lambda: len(self._begun) < CALLS_MAX, max(0.0, HANG_S - self._oldest_s()))
            if len(self._begun) >= CALLS_MAX or self._oldest_s() >= HANG_S:
                raise StoreFailed(f"{self.path}: the disk has not answered for {self._oldest_s():.0f} s")
            self._begun[call] = time.monotonic()
        try:
            yield
        finally:
            with self._changed:
                del self._begun[call]
                self._changed.notify()

    def _oldest_s(self) -> float:
        return time.monotonic() - next(iter(self._begun.values())) if self._begun else 0.0

    # -- chunks --------------------------------------------------------------------------------------------------------

    def put(self, fid: int, payload: Buffer, crc32c: int) -> None:
        assert fid not in self._void
        with self._call():
            try:
                self._engine.put(fid, payload, crc32c)
            except StoreFailed:
                self._stat_s = -STAT_KEPT_S
                if fid not in self._engine:
                    self._doubted.add(fid)
                raise

    def read_into(self, fid: int, offset: int, buffer: bytearray | memoryview) -> int:
        if fid not in self:  # known without the disk
            raise ChunkNotFound(fid)
        with self._call():
            return self._engine.read_into(fid, offset, buffer)

    def info(self, fid: int) -> ChunkInfo:
        if fid in self._void:
            raise ChunkNotFound(fid)
        return self._outside_chunk(self._engine.info(fid))

    def __contains__(self, fid: int) -> bool:
        return fid not in self._void and fid in self._engine

    def delete(self, fid: int) -> bool:
        """Where the disk does not take it, it is noted: the chunk is gone from here, and from the disk when that is
        opened again."""
        if fid in self._void or (self.hangs and fid not in self and self._stat.volumes_quarantined == 0):
            removed = False
        elif fid in self._doubted:
            removed = False
            self.void(fid)
        else:
            try:
                with self._call():
                    removed = self._engine.delete(fid)
            except StoreFailed:
                removed = fid in self
                self.void(fid)
        return removed

    def doubts(self, fid: int) -> bool:
        """A put of this chunk failed, which may yet hold after the next opening."""
        return fid in self._doubted

    def may_take(self, fid: int) -> bool:
        """Not before the next opening, if something of this chunk may come back with it."""
        return fid not in self._void and fid not in self._doubted

    def void(self, fid: int) -> None:
        """Whatever the disk has of this chunk is deleted before it serves again. Raises DiskFull, StoreFailed."""
        self._due.note(fid)
        self._void.add(fid)
        self._doubted.discard(fid)

    # -- from memory ---------------------------------------------------------------------------------------------------

    def iterate(self, after_fid: int, limit: int) -> list[ChunkInfo]:
        found: list[ChunkInfo] = []
        while len(found) < limit:
            wanted = limit - len(found)
            some = self._engine.iterate(after_fid, wanted)
            found += [self._outside_chunk(one) for one in some if one.fid not in self._void]
            if len(some) < wanted:
                break
            after_fid = some[-1].fid
        return found

    def range_digests(self, first_fid: int, span_log2: int, count: int) -> list[RangeDigest]:
        return self._engine.range_digests(first_fid, span_log2, count)

    def stat(self) -> EngineStat:
        """With the state "failed" while the disk hangs or does not tell."""
        if not self.hangs:
            try:
                self._stat = self._engine.stat()
                self._stat_s = time.monotonic()
                return self._stat
            except StoreFailed:  # the file system is gone
                pass
        return replace(self._stat, state="failed", free_bytes=0)

    def recent_stat(self) -> EngineStat:
        """At most STAT_KEPT_S old."""
        if self.hangs or time.monotonic() - self._stat_s >= STAT_KEPT_S:
            return self.stat()
        return self._stat

    def volumes(self) -> list[VolumeInfo]:
        return [replace(one, id=self._outside(one.id)) for one in self._engine.volumes()]

    def needles(self, volume: int, after_offset: int, limit: int) -> list[ChunkInfo]:
        found = self._engine.needles(volume, after_offset, limit)
        return [self._outside_chunk(chunk) for chunk in found]

    # -- upkeep; volumes are given as this disk numbers them -----------------------------------------------------------

    def verify(self, volume: int, offset: int, bytes_max: int) -> Verification:
        with self._call():
            told = self._engine.verify(volume, offset, bytes_max)
        return replace(told, damage=tuple(self._outside_damage(found) for found in told.damage))

    def compact(self, below: float, bytes_s: int, volumes: Sequence[int]) -> CompactionReport:
        if self.hangs:
            raise StoreFailed(f"{self.path}: the disk does not answer")
        return self._engine.compact(below, bytes_s, volumes)  # takes long also where nothing is wrong

    def cancel_compaction(self) -> None:
        self._engine.cancel_compaction()

    def scrub_start(self) -> None:
        with self._call():
            self._engine.scrub_start()

    def scrub_step(self, bytes_max: int, bytes_s: int) -> ScrubProgress:
        with self._call():
            return self._engine.scrub_step(bytes_max, bytes_s)

    def scrub_status(self) -> ScrubProgress:
        told = self._engine.scrub_status()
        return replace(told, volume=self._outside(told.volume))

    def scrub_damage(self) -> list[Damage]:
        return [self._outside_damage(found) for found in self._engine.scrub_damage()]

    def close(self) -> None:
        self._due.close()
        self._engine.close()

    def _outside(self, volume: int) -> int:
        return self.number * VOLUMES_PER_DISK + volume if volume else 0

    def _outside_chunk(self, found: ChunkInfo) -> ChunkInfo:
        return replace(found, volume=self._outside(found.volume))

    def _outside_damage(self, found: Damage) -> Damage:
        return replace(found, volume=self._outside(found.volume))
