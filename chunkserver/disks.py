"""Disks: several stores of one ChunkServer as one, each on a disk of its own; what one of them suffers stays with it.

It is to callers what native.engine.Engine is. Volumes are numbered per disk: disk number x VOLUMES_PER_DISK + the id of
its file, so that 300000017 is v00000017 on disk 3.

A chunk lies on one disk: it is put where it is already, or on a disk that takes chunks, drawn by free space. A disk
that cannot be opened is down until the next start: what it holds is unknown then, so "not found" is no answer of this
server.

Disk 0 is <data>/disk, there if it has been used or no others are given. The others are numbered in the order in which
they came, and keep their numbers: server.json lists them.
"""

from __future__ import annotations

import heapq
import logging
import random
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Final, Protocol, TypeVar

from native.engine import Engine, EngineOptions
from native.errors import (
    ChunkCorrupt,
    ChunkNotFound,
    DiskFull,
    EngineError,
    StoreBusy,
    StoreFailed,
    StoreLocked,
    StoreMismatch,
    VolumeNotFound,
)
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

log = logging.getLogger("speedy.chunkserver")

VOLUMES_PER_DISK: Final = 100_000_000
DISKS_MAX: Final = 40  # their volumes' numbers fit 32 bits

#: how old the free space may be by which a disk is drawn
SPACE_KEPT_S: Final = 1.0
#: how long the second of two puts of one fid waits for the first
TURN_WAIT_S: Final = 30.0
_TURNS: Final = 1024

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


def open_disks(
    own: Path, paths: Sequence[Path], known: Sequence[str], options: EngineOptions
) -> tuple[Chunks, tuple[str, ...]]:
    """The stores of a server, and what is known of disks from now on. `own`: disk 0; `paths`: the others that shall be
    used; `known`: those that were, ever. A store is made where none was known, unless `options.create` is off.

    A disk that cannot be opened is down. Raises StoreLocked when another process has one, StoreMismatch for a new disk
    with chunks on it, and what the last disk met when none can be opened.
    """
    if not paths:
        return Engine.open(own, options), tuple(known)
    numbers = list(known)
    with ExitStack() as opened:
        disks: list[Disk] = []
        down: list[str] = []
        unused = 0
        trouble: EngineError | None = None
        for path in [own, *paths] if own.exists() else paths:
            name = str(path)
            is_known = path == own or name in known
            try:
                engine = Engine.open(path, replace(options, create=options.create and not is_known))
            except StoreLocked:
                raise
            except (EngineError, OSError) as exc:
                log.error("disk %s is not used: %s", path, exc)
                trouble = exc if isinstance(exc, EngineError) else StoreFailed(f"{path}: {exc}")
                if is_known:
                    down.append(str(trouble))
                else:
                    unused += 1
                continue
            opened.callback(engine.close)
            if not is_known:
                if engine.stat().volumes > 0:
                    raise StoreMismatch(f"{path} holds chunks that this server did not put there")
                numbers.append(name)
            disks.append(Disk(0 if path == own else 1 + numbers.index(name), engine))
        if not disks:
            assert trouble is not None
            raise trouble
        opened.pop_all()
    return Disks(disks, down, unused), tuple(numbers)


@dataclass(slots=True)
class Disk:
    """`number` names its volumes and never changes."""

    number: int
    engine: Engine
    # As seen at seen_s (monotonic); guarded by nothing: whoever is late draws by older numbers.
    state: str = "rw"
    free_bytes: int = 0
    seen_s: float = field(default=-SPACE_KEPT_S)

    def outside(self, volume: int) -> int:
        return self.number * VOLUMES_PER_DISK + volume if volume else 0

    def chunk(self, found: ChunkInfo) -> ChunkInfo:
        return replace(found, volume=self.outside(found.volume))

    def damage(self, found: Damage) -> Damage:
        return replace(found, volume=self.outside(found.volume))


class Disks:
    """`down`: why disks with chunks could not be opened, for messages; `unused`: how many others could not. The engines
    are closed with it."""

    def __init__(self, disks: Sequence[Disk], down: Sequence[str] = (), unused: int = 0) -> None:
        self._disks = tuple(disks)
        self._down = tuple(down)
        self._unused = unused
        # Two puts of one fid at once must not end on two disks.
        self._turns = tuple(threading.Lock() for _ in range(_TURNS))
        self._cancelled = threading.Event()

    # -- chunks --------------------------------------------------------------------------------------------------------

    def put(self, fid: int, payload: Buffer, crc32c: int) -> None:
        turn = self._turns[fid % _TURNS]
        if not turn.acquire(timeout=TURN_WAIT_S):
            raise StoreBusy(f"chunk {fid} is being stored by another call for {TURN_WAIT_S:g} s")
        try:
            holder = next((disk for disk in self._disks if fid in disk.engine), None)
            if holder is not None:
                holder.engine.put(fid, payload, crc32c)
            else:
                self._put_new(fid, payload, crc32c)
        finally:
            turn.release()

    def _put_new(self, fid: int, payload: Buffer, crc32c: int) -> None:
        full: DiskFull | None = None
        for disk in self._drawn():
            try:
                disk.engine.put(fid, payload, crc32c)
                return
            except DiskFull as exc:  # nothing of it was stored there
                full = exc
                disk.seen_s = -SPACE_KEPT_S
            except StoreFailed:
                disk.seen_s = -SPACE_KEPT_S
                raise  # the sender gives the fid up: whether the bytes are there is unknown
        if full is not None:
            raise full
        raise StoreFailed("no disk takes chunks any more")

    def _drawn(self) -> list[Disk]:
        """The disks that may take a chunk in a random order: those with more free space are more often first. Full ones
        are last: their own answer says what is missing."""
        for disk in self._disks:
            if time.monotonic() - disk.seen_s >= SPACE_KEPT_S:
                disk.seen_s = time.monotonic()
                stat = disk.engine.stat()
                disk.state, disk.free_bytes = stat.state, stat.free_bytes
        # Weighted sampling without replacement (Efraimidis and Spirakis, 2006): the larger key goes first.
        keyed = [
            (disk.state == "rw", random.random() ** (1 / max(1, disk.free_bytes)), disk.number, disk)  # noqa: S311
            for disk in self._disks
            if disk.state != "failed"
        ]
        return [disk for *_, disk in sorted(keyed, reverse=True)]

    def read_into(self, fid: int, offset: int, buffer: bytearray | memoryview) -> int:
        return self._find(fid, lambda disk: disk.engine.read_into(fid, offset, buffer))

    def info(self, fid: int) -> ChunkInfo:
        return self._find(fid, lambda disk: disk.chunk(disk.engine.info(fid)))

    def _find(self, fid: int, ask: Callable[[Disk], T]) -> T:
        """What the disk with the chunk says; another copy is tried when one is corrupt."""
        corrupt: ChunkCorrupt | None = None
        for disk in self._disks:
            try:
                return ask(disk)
            except ChunkNotFound:
                continue
            except ChunkCorrupt as exc:
                corrupt = exc
        if corrupt is not None:
            raise corrupt
        self._refuse_unknown(fid)
        raise ChunkNotFound(fid)

    def _refuse_unknown(self, fid: int) -> None:
        if self._down:
            raise StoreFailed(f"chunk {fid} is on no disk that is open, and not all are: {'; '.join(self._down)}")

    def delete(self, fid: int) -> bool:
        removed = [disk.engine.delete(fid) for disk in self._disks]
        if not any(removed):
            self._refuse_unknown(fid)
        return any(removed)

    def iterate(self, after_fid: int = 0, limit: int = 1000) -> list[ChunkInfo]:
        lists = [[disk.chunk(found) for found in disk.engine.iterate(after_fid, limit)] for disk in self._disks]
        merged: list[ChunkInfo] = []
        for found in heapq.merge(*lists, key=lambda chunk: chunk.fid):
            if merged and merged[-1].fid == found.fid:
                continue
            merged.append(found)
            if len(merged) == limit:
                break
        return merged

    def range_digests(self, first_fid: int, span_log2: int, count: int) -> list[RangeDigest]:
        told = [disk.engine.range_digests(first_fid, span_log2, count) for disk in self._disks]
        return [_sum_of_digests(same) for same in zip(*told, strict=True)]

    # -- volumes -------------------------------------------------------------------------------------------------------

    def volumes(self) -> list[VolumeInfo]:
        return [replace(one, id=disk.outside(one.id)) for disk in self._disks for one in disk.engine.volumes()]

    def needles(self, volume: int, after_offset: int = 0, limit: int = 1000) -> list[ChunkInfo]:
        disk, own = self._of_volume(volume)
        return [disk.chunk(found) for found in _named(volume, lambda: disk.engine.needles(own, after_offset, limit))]

    def verify(self, volume: int, offset: int, bytes_max: int) -> Verification:
        disk, own = self._of_volume(volume)
        told = _named(volume, lambda: disk.engine.verify(own, offset, bytes_max))
        return replace(told, damage=tuple(disk.damage(found) for found in told.damage))

    def compact(self, below: float = 0.7, bytes_s: int = 0, volumes: Sequence[int] = ()) -> CompactionReport:
        """One disk after the other."""
        wanted: dict[int, list[int]] = {}
        for volume in volumes:
            disk, own = self._of_volume(volume)
            wanted.setdefault(disk.number, []).append(own)
        self._cancelled.clear()
        reports: list[CompactionReport] = []
        for disk in self._disks:
            if volumes and disk.number not in wanted:
                continue
            if self._cancelled.is_set():
                reports.append(replace(reports[-1], **dict.fromkeys(_NUMBERS_OF_REPORT, 0), stopped=True))
                break
            reports.append(disk.engine.compact(below, bytes_s, wanted.get(disk.number, ())))
        return CompactionReport(
            **{name: sum(getattr(one, name) for one in reports) for name in _NUMBERS_OF_REPORT},
            stopped=any(one.stopped for one in reports),
        )

    def cancel_compaction(self) -> None:
        self._cancelled.set()
        for disk in self._disks:
            disk.engine.cancel_compaction()

    def _of_volume(self, volume: int) -> tuple[Disk, int]:
        number, own = divmod(volume, VOLUMES_PER_DISK)
        disk = next((disk for disk in self._disks if disk.number == number), None)
        if disk is None or own == 0:
            raise VolumeNotFound(volume)
        return disk, own

    # -- state and scrub -----------------------------------------------------------------------------------------------

    def stat(self) -> EngineStat:
        stats = [disk.engine.stat() for disk in self._disks]
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
        failed = sum(disk.engine.stat().state == "failed" for disk in self._disks)
        closed = len(self._down) + self._unused
        return len(self._disks) + closed, failed + closed

    def scrub_start(self) -> None:
        """On every disk that can; raises what the last one met when none can."""
        trouble: EngineError | None = None
        begun = 0
        for disk in self._disks:
            try:
                disk.engine.scrub_start()
                begun += 1
            except EngineError as exc:
                trouble = exc
        if begun == 0 and trouble is not None:
            raise trouble

    def scrub_step(self, bytes_max: int, bytes_s: int = 0) -> ScrubProgress:
        """One disk after the other, so the rate is one for all. A disk whose step fails lets the next one go first."""
        trouble: EngineError | None = None
        for disk in self._disks:
            if not disk.engine.scrub_status().active:
                continue
            try:
                wait_s = disk.engine.scrub_step(bytes_max, bytes_s).wait_s
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
        told = [(disk, disk.engine.scrub_status()) for disk in self._disks]
        disk, now = next(((disk, one) for disk, one in told if one.active), told[-1])
        every = [one for _, one in told]
        return ScrubProgress(
            round=max(one.round for one in every),
            active=now.active,
            started_s=max(one.started_s for one in every),
            ended_s=min(one.ended_s for one in every),
            total_bytes=sum(one.total_bytes for one in every),
            checked_bytes=sum(one.checked_bytes for one in every),
            checked_chunks=sum(one.checked_chunks for one in every),
            damaged=sum(one.damaged for one in every),
            volume=disk.outside(now.volume),
            offset=now.offset,
            wait_s=now.wait_s,
        )

    def scrub_damage(self) -> list[Damage]:
        return [disk.damage(found) for disk in self._disks for found in disk.engine.scrub_damage()]

    def close(self) -> None:
        """Each disk, whatever another one's last checkpoint met; the first error is raised at the end."""
        with ExitStack() as closing:
            for disk in self._disks:
                closing.callback(disk.engine.close)


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
