"""LocalImageStore: chunks on groups of ChunkServers, with the stores, the master and the clock passed in.

It keeps nothing that matters: the group table and the fid ranges are caches of what the ChunkMaster said, so any
number of ImageServers run side by side and any of them may die.
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from chunkmaster.interface import ChunkMaster, GroupTable, Member
from chunkserver.interface import CHUNK_BYTES_MAX, Buffer, ChunkStore
from imageserver.counters import Counters
from imageserver.fids import FidKeeper, FidLimits
from imageserver.interface import ChunkRef
from imageserver.members import MemberBook, PenaltyLimits
from imageserver.placement import Placement, is_full
from imageserver.replication import Failure, Replicator
from imageserver.table import GroupTableCache, TableLimits
from native.checksum import crc32c as crc32c_of
from wire.errors import (
    ChecksumMismatch,
    ChunkConflict,
    ChunkDamaged,
    ChunkNotFound,
    ChunkUnreadable,
    DeadlineExceeded,
    NoGroupAvailable,
    Overloaded,
    PayloadTooLarge,
    RangeNotSatisfiable,
    SpeedyError,
    StorageFull,
)

log = logging.getLogger("speedy.imageserver")

#: pauses before groups that were all too busy are tried again: the first one, and what doubling ends at
BUSY_PAUSE_FIRST_S = 0.1
BUSY_PAUSE_MAX_S = 1.0

#: what a member says of a chunk of which it has no good copy; anything else says nothing of the copy
_NO_GOOD_COPY = (ChunkUnreadable, RangeNotSatisfiable, ChecksumMismatch, ChunkNotFound)


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """`write_timeout_s`: for one group's members to take a chunk (a busy disk's fdatasync may take seconds); reads
    are bounded by the stores themselves (see MemberBook). `put_deadline_s`: for a chunk over all groups that are
    tried, at most `put_attempts_max` of them. `delete_deadline_s`: for one call of delete_chunks. `threads_max`:
    replica writes and deletes at the same time."""

    write_timeout_s: float = 10.0
    put_deadline_s: float = 30.0
    put_attempts_max: int = 16
    delete_deadline_s: float = 20.0
    threads_max: int = 64
    table: TableLimits = field(default_factory=TableLimits)
    fids: FidLimits = field(default_factory=FidLimits)
    penalty: PenaltyLimits = field(default_factory=PenaltyLimits)


class LocalImageStore:
    """An ImageStore over ChunkStores. Works as made; `start` adds the background refresh of table and fids.

    `owner` names this process at the master (fid ranges). `state_dir` keeps the disposable group table; `ask_member`
    fetches the table that a ChunkServer holds, for a start without a master.
    """

    def __init__(
        self,
        master: ChunkMaster,
        open_store: Callable[[Member], ChunkStore],
        clock: Callable[[], float] = time.monotonic,
        *,
        owner: str,
        limits: ImageLimits | None = None,
        state_dir: Path | None = None,
        ask_member: Callable[[Member], GroupTable | None] | None = None,
        random: Random | None = None,
    ) -> None:
        self._limits = limits or ImageLimits()
        self._clock = clock
        self._members = MemberBook(open_store, clock, self._limits.penalty)
        self._placement = Placement(self._members, random)
        self._replicator = Replicator(self._members, self._limits.threads_max)
        self._fids = FidKeeper(master, owner, clock, self._limits.fids)
        self._table = GroupTableCache(
            master,
            clock,
            state_dir=state_dir,
            ask_member=ask_member,
            limits=self._limits.table,
            on_change=self._forget_old_members,
        )
        self.counters = Counters()

    def start(self) -> None:
        """Begin refreshing in the background (after a fork, never before)."""
        self._table.start()
        self._fids.start()

    def close(self) -> None:
        """Stop the threads and retire the fid ranges (best effort)."""
        self._table.close()
        self._fids.close()
        self._replicator.close()

    # -- writing ---------------------------------------------------------------------------------------------------
    def put_chunk(self, payload: Buffer, crc32c: int) -> ChunkRef:
        length = memoryview(payload).nbytes
        if length > CHUNK_BYTES_MAX:
            raise PayloadTooLarge(
                f"a chunk of {length} bytes, at most {CHUNK_BYTES_MAX} are allowed", limit=CHUNK_BYTES_MAX
            )
        deadline_s = self._clock() + self._limits.put_deadline_s
        stragglers: list[Future[None]] = []
        try:
            return self._put_until(deadline_s, payload, length, crc32c, stragglers)
        finally:
            if stragglers:
                # They still read the payload, which is the caller's again once this returns.
                wait(stragglers, timeout=self._limits.write_timeout_s)

    def _put_until(
        self, deadline_s: float, payload: Buffer, length: int, crc32c: int, stragglers: list[Future[None]]
    ) -> ChunkRef:
        failed: dict[int, tuple[Failure, ...]] = {}
        pause_s = BUSY_PAUSE_FIRST_S
        for _ in range(self._limits.put_attempts_max):
            left_s = deadline_s - self._clock()
            if left_s <= 0:
                raise DeadlineExceeded(
                    f"no group took the chunk within {self._limits.put_deadline_s:g} s: {_told(failed)}"
                )
            try:
                group = self._placement.choose(self._table.current(), length, failed)
            except (NoGroupAvailable, StorageFull) as error:
                if not failed or not _all_busy(failed):
                    raise _outcome(self._table.current(), failed, error) from None
                # Every group has too much to do just now: that passes, and the caller's chunk is here already.
                time.sleep(min(pause_s, left_s))
                pause_s = min(BUSY_PAUSE_MAX_S, pause_s * 2)
                failed = {}
                continue
            fid = self._fids.take(left_s)
            with self._placement.writing(group.group_id, length):
                outcome = self._replicator.write(group, fid, payload, crc32c, min(left_s, self._limits.write_timeout_s))
            stragglers += outcome.stragglers
            if not outcome.failures:
                self.counters.add(chunks_written=1, bytes_written=length)
                return ChunkRef(fid, group.group_id, length, crc32c)
            self._burned(fid, payload, crc32c, outcome.failures)
            failed[group.group_id] = outcome.failures
        raise _outcome(
            self._table.current(),
            failed,
            NoGroupAvailable(f"no group took the chunk in {self._limits.put_attempts_max} attempts"),
        )

    def _burned(self, fid: int, payload: Buffer, crc32c: int, failures: tuple[Failure, ...]) -> None:
        """The fid is never used again. Sees to failures that say something about the fid or the payload itself."""
        self.counters.add(fids_burned=1)
        if any(isinstance(failure.error, ChunkConflict) for failure in failures):
            self._fids.distrust(fid)
        if any(isinstance(failure.error, ChecksumMismatch) for failure in failures):
            # Members verify what they store, so the payload is summed here only when one of them complained.
            actual = crc32c_of(payload)
            if actual != crc32c:
                raise ChecksumMismatch(
                    f"the payload's CRC-32C is {actual:08x}, not {crc32c:08x}", expected=crc32c, actual=actual
                )

    # -- reading ---------------------------------------------------------------------------------------------------
    def read_chunk_into(self, ref: ChunkRef, offset: int, buffer: bytearray | memoryview) -> int:
        view = memoryview(buffer)
        if offset < 0 or offset + view.nbytes > ref.length:
            raise RangeNotSatisfiable(
                f"bytes {offset}-{offset + view.nbytes - 1} of fid {ref.fid}, which has {ref.length}", length=ref.length
            )
        crc32c, errors = self._read_any(ref, offset, view)
        if crc32c is None and all(isinstance(error, ChunkNotFound) for error in errors.values()):
            # Also an unknown group: the table may be older than the chunk.
            self._table.refresh(whole=True)
            crc32c, errors = self._read_any(ref, offset, view)
        if crc32c is not None:
            self.counters.add(chunks_read=1, bytes_read=view.nbytes)
            return crc32c
        if errors and all(isinstance(error, ChunkNotFound) for error in errors.values()):
            raise ChunkNotFound(f"no member of group {ref.group_id} has fid {ref.fid}", fid=ref.fid)
        self.counters.add(chunks_unreadable=1)
        told = "; ".join(f"{server_id}: {error}" for server_id, error in errors.items()) or "the group is not known"
        answered = errors and all(isinstance(error, _NO_GOOD_COPY) for error in errors.values())
        kind = ChunkDamaged if answered else ChunkUnreadable  # a member that is away may have a good one
        raise kind(f"no good copy of fid {ref.fid} in group {ref.group_id}: {told}", fid=ref.fid)

    def _read_any(self, ref: ChunkRef, offset: int, view: memoryview) -> tuple[int | None, Mapping[str, SpeedyError]]:
        """Try every member: the CRC-32C of `view` when one of them filled it, None when none did; and by their server
        ids what those that did not have answered."""
        group = self._table.group(ref.group_id)
        errors: dict[str, SpeedyError] = {}
        for member in self._in_reading_order(group.members if group is not None else (), ref.fid):
            try:
                # In the calling thread, straight into its buffer: a second try beside a slow first one would have to
                # read elsewhere and copy, because the slow one may still write into this buffer.
                crc32c = self._members.store(member).read_into(ref.fid, offset, view)
                _verify_whole(member, ref, view.nbytes, crc32c)
            except SpeedyError as error:
                errors[member.server_id] = error
                self._read_failed(member, ref, error)
            else:
                self._members.succeeded(member.server_id)
                if errors:
                    self.counters.add(read_failovers=1)
                return crc32c, errors
        return None, errors

    def _in_reading_order(self, members: Sequence[Member], fid: int) -> list[Member]:
        """Healthy members first; among equals the fid decides who begins, so that load spreads and caches do not
        double."""
        if len(members) <= 1:
            return list(members)
        first = fid % len(members)
        rotated = [*members[first:], *members[:first]]
        return sorted(rotated, key=lambda m: (self._members.avoided(m.server_id), m.state not in ("rw", "ro_full")))

    def _read_failed(self, member: Member, ref: ChunkRef, error: SpeedyError) -> None:
        bad_copy = isinstance(error, ChunkUnreadable | RangeNotSatisfiable | ChecksumMismatch)
        if bad_copy:
            self.counters.add(bad_copies=1)
        elif not isinstance(error, Overloaded | ChunkNotFound):
            self._members.failed(member.server_id)  # a bad copy says nothing of the member's other chunks
        log.warning(
            "%s does not give fid %d: %s",
            member.server_id,
            ref.fid,
            error,
            extra={
                "fid": ref.fid,
                "group_id": ref.group_id,
                "server_id": member.server_id,
                "error_code": error.code,
                "bad_copy": bad_copy,
            },
        )

    # -- the rest --------------------------------------------------------------------------------------------------
    def delete_chunks(self, refs: Sequence[ChunkRef]) -> list[ChunkRef]:
        groups = {group.group_id: group for group in self._table.current().groups}
        jobs: dict[Member, list[int]] = defaultdict(list)
        for ref in refs:
            for member in groups[ref.group_id].members if ref.group_id in groups else ():
                jobs[member].append(ref.fid)
        gone = self._replicator.delete(jobs, self._limits.delete_deadline_s) if jobs else {}
        return [
            ref
            for ref in refs
            if ref.group_id not in groups or any(ref.fid not in gone[m] for m in groups[ref.group_id].members)
        ]

    def check(self) -> None:
        self._placement.choose(self._table.current(), 1)
        self._fids.check()

    def _forget_old_members(self, table: GroupTable) -> None:
        self._members.forget_others(frozenset(m.server_id for group in table.groups for m in group.members))


def _verify_whole(member: Member, ref: ChunkRef, length: int, crc32c: int) -> None:
    """Parts are verified by the store against its block checksums; only a whole chunk can be held to the reference."""
    if length == ref.length and crc32c != ref.crc32c:
        raise ChunkUnreadable(f"{member.server_id} gave other bytes than were stored as fid {ref.fid}", fid=ref.fid)


def _all_busy(failed: dict[int, tuple[Failure, ...]]) -> bool:
    return all(isinstance(failure.error, Overloaded) for failures in failed.values() for failure in failures)


def _outcome(table: GroupTable, failed: dict[int, tuple[Failure, ...]], error: SpeedyError) -> SpeedyError:
    """What to tell when the last group has failed too: full is told only when every group is full."""
    errors = [failure.error for failures in failed.values() for failure in failures]
    if errors and _all_busy(failed):
        return Overloaded(f"all groups are busy: {_told(failed)}", retry_after_s=1)
    full = all(any(isinstance(f.error, StorageFull) for f in failures) for failures in failed.values())
    if errors and full and all(group.group_id in failed or is_full(group) for group in table.groups):
        return StorageFull(f"all groups are full: {_told(failed)}")
    if errors:
        return NoGroupAvailable(f"no group took the chunk: {_told(failed)}")
    return error


def _told(failed: dict[int, tuple[Failure, ...]]) -> str:
    told = [
        f"group {group_id}: {failure.member.server_id}: {failure.error}"
        for group_id, failures in failed.items()
        for failure in failures
    ]
    return "; ".join(told[:10]) or "none was tried"
