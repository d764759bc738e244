"""Writing one chunk to every member of a group at once, and taking it back where the group did not take it whole."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from dataclasses import dataclass

from chunkmaster.interface import Group, Member
from chunkserver.interface import Buffer
from imageserver.members import MemberBook
from wire.context import run_in_context
from wire.errors import (
    ChecksumMismatch,
    ChunkConflict,
    DeadlineExceeded,
    InternalError,
    Overloaded,
    PayloadTooLarge,
    SpeedyError,
    StorageFull,
)
from wire.threads import WorkerThreads

log = logging.getLogger("speedy.imageserver")

#: copies of failed writes that wait to be deleted; what does not fit is left to the sweeper
CLEANUPS_MAX = 256

#: answers after which a member certainly holds nothing under the fid that this write put there
REFUSALS = (ChecksumMismatch, ChunkConflict, PayloadTooLarge, StorageFull)


@dataclass(frozen=True, slots=True)
class Failure:
    """Why one member of a group did not take a chunk."""

    member: Member
    error: SpeedyError


@dataclass(frozen=True, slots=True)
class WriteOutcome:
    """`stragglers` are writes that still run after their time: they use the payload until they end."""

    failures: tuple[Failure, ...] = ()
    stragglers: tuple[Future[None], ...] = ()


class Replicator:
    """Thread-safe; owns a bounded number of threads, of which all but one start when they are needed."""

    def __init__(self, members: MemberBook, threads_max: int) -> None:
        self._members = members
        self._executor = WorkerThreads(threads_max, thread_name_prefix="replica")
        self._executor.start_one()
        self._cleanups = threading.BoundedSemaphore(CLEANUPS_MAX)

    def close(self) -> None:
        self._executor.shutdown(wait=False, cancel_futures=True)

    def write(self, group: Group, fid: int, payload: Buffer, crc32c: int, timeout_s: float) -> WriteOutcome:
        """Put the chunk on every member; without failures it is durable on all of them when this returns.

        After a failure the copies that were made are deleted in the background (best effort).
        """
        if len(group.members) == 1:
            return self._write_single(group.members[0], fid, payload, crc32c)
        tasks = {
            self._executor.submit(run_in_context(self._members.store(member).put), fid, payload, crc32c): member
            for member in group.members
        }
        wait(tasks, timeout=timeout_s)
        failures: list[Failure] = []
        stragglers: list[Future[None]] = []
        for task, member in tasks.items():
            if task.done():
                error = _error_of(task)
            elif task.cancel():
                error = Overloaded(f"no thread was free for {timeout_s:g} s to write to {member.server_id}")
            else:
                error = DeadlineExceeded(f"{member.server_id} did not take fid {fid} within {timeout_s:g} s")
                stragglers.append(task)
            if error is not None:
                failures.append(self._judge(member, fid, error))
            else:
                self._members.succeeded(member.server_id)
        if failures:
            self._take_back(fid, tasks, failures)
        return WriteOutcome(tuple(failures), tuple(stragglers))

    def delete(self, jobs: dict[Member, list[int]], timeout_s: float) -> dict[Member, set[int]]:
        """Delete each member's fids, members at once, fids one after the other; the fids that are gone for certain."""
        gone: dict[Member, set[int]] = {member: set() for member in jobs}
        give_up = threading.Event()

        def delete_from(member: Member) -> None:
            store = self._members.store(member)
            for fid in jobs[member]:
                if give_up.is_set():
                    return
                try:
                    store.delete(fid)
                except SpeedyError as error:
                    log.info("%s did not delete fid %d: %s", member.server_id, fid, error)
                    if error.retryable:
                        return  # it is away or busy: the others would only wait for the same
                else:
                    gone[member].add(fid)

        if len(jobs) == 1:
            delete_from(next(iter(jobs)))
            return gone
        tasks = [self._executor.submit(run_in_context(delete_from), member) for member in jobs]
        _, late = wait(tasks, timeout=timeout_s)
        give_up.set()
        for task in late:
            task.cancel()
        return {member: set(fids) for member, fids in gone.items()}

    def _write_single(self, member: Member, fid: int, payload: Buffer, crc32c: int) -> WriteOutcome:
        """The embedded server's case: nothing to do at the same time, so no thread is worth its hand-over."""
        try:
            self._members.store(member).put(fid, payload, crc32c)
        except SpeedyError as error:
            failure = self._judge(member, fid, error)
            if not isinstance(error, REFUSALS):
                self._discard_later(member, fid)
            return WriteOutcome((failure,))
        self._members.succeeded(member.server_id)
        return WriteOutcome()

    def _judge(self, member: Member, fid: int, error: SpeedyError) -> Failure:
        # Being busy or full is no fault; the group table tells of it soon enough, and the next draw goes elsewhere.
        if not isinstance(error, Overloaded | StorageFull | PayloadTooLarge):
            self._members.failed(member.server_id)
        log.warning(
            "%s did not take fid %d: %s",
            member.server_id,
            fid,
            error,
            extra={"fid": fid, "server_id": member.server_id, "error_code": error.code},
        )
        return Failure(member, error)

    def _take_back(self, fid: int, tasks: dict[Future[None], Member], failures: list[Failure]) -> None:
        if any(isinstance(failure.error, ChunkConflict) for failure in failures):
            return  # the fid belongs to another chunk: whatever lies under it must stay
        refused = {failure.member.server_id for failure in failures if isinstance(failure.error, REFUSALS)}
        for task, member in tasks.items():
            if member.server_id not in refused and not task.cancelled():
                # Runs when the write has ended: a delete that overtakes its put would leave the copy behind.
                task.add_done_callback(self._discard_after(member, fid))

    def _discard_after(self, member: Member, fid: int) -> Callable[[Future[None]], None]:
        return lambda _: self._discard_later(member, fid)

    def _discard_later(self, member: Member, fid: int) -> None:
        if not self._cleanups.acquire(blocking=False):
            return
        try:
            self._executor.submit(run_in_context(self._discard), member, fid)
        except RuntimeError:  # the store is closing
            self._cleanups.release()

    def _discard(self, member: Member, fid: int) -> None:
        try:
            self._members.store(member).delete(fid)
        except SpeedyError as error:
            log.info("a copy of the burned fid %d may be left on %s: %s", fid, member.server_id, error)
        finally:
            self._cleanups.release()


def _error_of(task: Future[None]) -> SpeedyError | None:
    error = task.exception()
    if error is None or isinstance(error, SpeedyError):
        return error
    log.error("writing a replica failed unexpectedly", exc_info=error)
    return InternalError(f"{type(error).__name__}: {error}")
