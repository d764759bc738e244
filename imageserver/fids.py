"""Where the fids of new chunks come from: ranges that the ChunkMaster reserved for this ImageServer alone.

A fid is taken once and then used or burned, never given back: the counter only goes up, and it lives in memory, so
that a process that starts again begins with a range of its own. The next range is fetched when half of the current
one is used; with both in hand an ImageServer writes on without a master, for at most `lease_s` from their
reservation. Ranges are retired hourly, so that the sweeper may look for chunks that no row names without waiting for
the lease to end.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass

from chunkmaster.interface import ChunkMaster, FidRange
from wire.errors import SpeedyError, StorageFull, Unavailable

log = logging.getLogger("speedy.imageserver")

FETCH_PAUSE_FIRST_S = 0.2
FETCH_PAUSE_MAX_S = 5.0

#: how long a check waits for a range that somebody else is fetching
CHECK_WAIT_S = 2.0


@dataclass(frozen=True, slots=True)
class FidLimits:
    """`count`: fids per range. `lease_s`: for how long after its reservation a range may be used. `retire_s`: age at
    which a range is replaced while a master is up. `linger_s`: time between a range's last use and its closing, so
    that chunks just written under it can still be recorded."""

    count: int = 10_000
    lease_s: float = 24 * 3600.0
    retire_s: float = 3600.0
    linger_s: float = 600.0


@dataclass(slots=True)
class _Held:
    range: FidRange
    reserved_at_s: float
    next_fid: int

    @property
    def left(self) -> int:
        return self.range.last - self.next_fid + 1


class FidKeeper:
    """Thread-safe. `start` begins fetching in advance; without it ranges are fetched when one is needed."""

    def __init__(
        self,
        master: ChunkMaster,
        owner: str,
        clock: Callable[[], float],
        limits: FidLimits | None = None,
    ) -> None:
        self._master = master
        self._owner = owner
        self._clock = clock
        self._limits = limits or FidLimits()
        self._changed = threading.Condition()
        self._ranges: list[_Held] = []  # the first one is in use, the second one waits; never more than two
        self._used_up: list[tuple[FidRange, float]] = []  # to be closed, not before this time
        self._fetching = False
        self._error: SpeedyError | None = None
        self._thread: threading.Thread | None = None
        self._stopped = False
        self._stop = threading.Event()  # ends the pause after a failure, which no take() may cut short

    def start(self) -> None:
        with self._changed:
            if self._thread is None and not self._stopped:
                self._thread = threading.Thread(target=self._keep, name="fid-keeper", daemon=True)
                self._thread.start()

    def take(self, timeout_s: float) -> int:
        """A fid that nobody had before. Raises Unavailable when none is left and no master gives more within
        `timeout_s`, StorageFull when the master's disk is the reason."""
        deadline_s = self._clock() + timeout_s
        while True:
            with self._changed:
                self._drop_ended()
                if self._ranges:
                    held = self._ranges[0]
                    fid = held.next_fid
                    held.next_fid += 1
                    if len(self._ranges) == 1 and held.left * 2 <= self._limits.count:
                        self._changed.notify_all()  # the keeper fetches the next range meanwhile
                    return fid
                if self._stopped:
                    raise Unavailable("this ImageServer is stopping")
                if self._fetching:
                    # Someone asks already. A master that keeps failing is reported rather than waited for.
                    error_before = self._error
                    if not self._changed.wait(max(0.0, deadline_s - self._clock())) or self._error not in (
                        None,
                        error_before,
                    ):
                        raise self._no_fids()
                    continue
                self._fetching = True
            if not self._fetch():
                raise self._no_fids()

    def check(self) -> None:
        """Return when a fid can be had without delay; else raise Unavailable or StorageFull with the reason."""
        with self._changed:
            self._drop_ended()
            if not self._ranges:
                # Right after a start the first range is on its way: that is no reason to refuse anybody.
                self._changed.wait_for(lambda: self._ranges or not self._fetching, CHECK_WAIT_S)
            if self._ranges:
                return
            alone = not self._fetching and not self._stopped
            self._fetching = self._fetching or alone
        if not alone or not self._fetch():
            raise self._no_fids()

    def distrust(self, fid: int) -> None:
        """Other bytes lie under a fid of ours, so the master's counter is behind: use nothing more of what it gave."""
        with self._changed:
            doubtful = [held for held in self._ranges if held.range.first <= fid <= held.range.last]
            if doubtful:
                log.error("fid %d was in use already; its whole range is given up", fid, extra={"fid": fid})
                # Both ranges come from the same counter.
                self._retire(self._ranges)
                self._ranges = []
                self._changed.notify_all()

    def close(self) -> None:
        """Stop, and close all ranges (best effort: a range that cannot be closed ends with its lease)."""
        with self._changed:
            self._stopped = True
            self._stop.set()
            self._retire(self._ranges)
            self._ranges = []
            self._changed.notify_all()
            thread = self._thread
        if thread is not None:
            thread.join(timeout=5.0)
        with self._changed:
            used_up, self._used_up = self._used_up, []
        for fid_range, _ in used_up:
            if not self._close_range(fid_range):
                break  # the next one would only wait for the same absent master

    def _no_fids(self) -> SpeedyError:
        if isinstance(self._error, StorageFull):
            # The master's database has no room for the range's row: waiting does not help, making room does.
            return StorageFull(f"no fids left: {self._error}")
        reason = f": {self._error}" if self._error is not None else ""
        return Unavailable(f"no fids left and no ChunkMaster gives new ones{reason}")

    # -- the keeper's thread ---------------------------------------------------------------------------------------
    def _keep(self) -> None:
        pause_s = 0.0
        while not self._stop.wait(pause_s):
            with self._changed:
                if not self._stopped and not pause_s and not self._due():
                    self._changed.wait(self._next_due_s())
                if self._stopped:
                    return
                self._drop_ended()
                fetch = self._due() and not self._fetching
                self._fetching = self._fetching or fetch
                closable = [r for r, not_before_s in self._used_up if not_before_s <= self._clock()]
            failed = fetch and not self._fetch()
            for fid_range in closable:
                if failed or not self._close_range(fid_range):
                    failed = True
                    break
                with self._changed:
                    self._used_up = [entry for entry in self._used_up if entry[0] != fid_range]
            pause_s = min(FETCH_PAUSE_MAX_S, max(FETCH_PAUSE_FIRST_S, pause_s * 2)) if failed else 0.0

    def _due(self) -> bool:
        """A range should be fetched now: none is there, the only one is half used, or the one in use is old."""
        if not self._ranges or self._clock() - self._ranges[0].reserved_at_s >= self._limits.retire_s:
            return True
        return len(self._ranges) == 1 and self._ranges[0].left * 2 <= self._limits.count

    def _next_due_s(self) -> float:
        times_s = [held.reserved_at_s + self._limits.retire_s for held in self._ranges]
        times_s += [not_before_s for _, not_before_s in self._used_up]
        return min(60.0, max(0.05, min(times_s, default=0.0) - self._clock()))

    def _fetch(self) -> bool:
        """Ask the master for a range. The caller has set `_fetching`."""
        reserved_at_s = self._clock()  # before asking: the lease must never end later here than at the master
        fid_range: FidRange | None = None
        error: SpeedyError | None = None
        try:
            fid_range = self._master.reserve_fids(self._owner, self._limits.count)
        except SpeedyError as caught:
            error = caught
        finally:
            with self._changed:
                self._fetching = False
                if fid_range is None:
                    self._error = error or Unavailable("the ChunkMaster could not be asked")
                else:
                    self._error = None
                    self._take_in(_Held(fid_range, reserved_at_s, fid_range.first))
                self._changed.notify_all()
        if error is not None:
            log.warning("no fid range from the ChunkMaster: %s", error)
        return fid_range is not None

    def _take_in(self, fetched: _Held) -> None:
        if self._stopped:
            self._retire([fetched])
            return
        old = [h for h in self._ranges if fetched.reserved_at_s - h.reserved_at_s >= self._limits.retire_s]
        self._ranges = [h for h in self._ranges if h not in old]
        self._retire(old)
        self._ranges.append(fetched)

    def _drop_ended(self) -> None:
        ended = [
            held
            for held in self._ranges
            if held.left <= 0 or self._clock() - held.reserved_at_s >= self._limits.lease_s
        ]
        if ended:
            self._ranges = [held for held in self._ranges if held not in ended]
            self._retire(ended)

    def _retire(self, ranges: list[_Held]) -> None:
        not_before_s = self._clock() + self._limits.linger_s
        self._used_up += [(held.range, not_before_s) for held in ranges]

    def _close_range(self, fid_range: FidRange) -> bool:
        try:
            self._master.close_fid_range(fid_range.range_id)
        except SpeedyError as error:
            log.warning("fid range %d could not be closed yet: %s", fid_range.range_id, error)
            return False
        return True
