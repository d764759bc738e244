"""What this master heard from ChunkServers, and what follows for their states. In memory; nothing here touches a row.

A member is down when it has been silent for `down_after_s` (three heartbeats). A master that just started, or that was
itself asleep, has heard nothing for reasons of its own: for one such span it trusts the states it finds in the rows.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from chunkmaster.interface import Heartbeat, MemberState
from chunkserver.interface import StoreStat
from wire.errors import Conflict

#: a change of space is worth a new table version when it is larger than 1/20 of the member's total
_SPACE_STEP = 20


@dataclass(frozen=True, slots=True)
class MemberRow:
    """A row of master_members, in the order of its group."""

    server_id: str
    group_id: int
    url: str
    state: MemberState
    free_bytes: int
    total_bytes: int
    chunks: int


@dataclass(frozen=True, slots=True)
class Report:
    """The last heartbeat of a server; `heard_s` by this master's clock."""

    url: str
    stat: StoreStat
    heard_s: float


class Health:
    """Thread-safe."""

    def __init__(self, clock: Callable[[], float], down_after_s: float) -> None:
        self._clock = clock
        self._down_after_s = down_after_s
        self._reports: dict[str, Report] = {}
        self._heard = threading.Condition()
        self._judged_s = clock()
        self._trust_until_s = self._judged_s + down_after_s

    def hear(self, beat: Heartbeat) -> None:
        """Take a report. Raises Conflict when a live server reports under this id from another url."""
        now_s = self._clock()
        with self._heard:
            before = self._reports.get(beat.server_id)
            if before is not None and before.url != beat.url and now_s - before.heard_s < self._down_after_s:
                raise Conflict(
                    f"server {beat.server_id} reports from {before.url} (heard {now_s - before.heard_s:.1f} s ago), "
                    f"so {beat.url} cannot be it too"
                )
            self._reports[beat.server_id] = Report(beat.url, beat.stat, now_s)
            self._heard.notify_all()

    def report(self, server_id: str) -> Report | None:
        with self._heard:
            return self._reports.get(server_id)

    def fid_max(self) -> int:
        """The highest fid that any ChunkServer reported to this master."""
        with self._heard:
            return max((report.stat.fid_max for report in self._reports.values()), default=0)

    def age_s(self, report: Report) -> float:
        return max(0.0, self._clock() - report.heard_s)

    def wait_heard(self, members: Iterable[MemberRow]) -> None:
        """Wait until every member has reported, or the first trust has ended.

        The fids that they report decide what may be handed out: a database restored from a backup knows fewer. It may
        also call a member new, or down, that has been up since; so their states excuse nobody.
        """
        expected = {member.server_id for member in members}
        with self._heard:
            while not expected <= self._reports.keys():
                left_s = self._trust_until_s - self._clock()
                if left_s <= 0 or not self._heard.wait(left_s):
                    return

    def judge(self, members: Iterable[MemberRow]) -> list[MemberRow]:
        """The rows that should be written, as they should be; rows that may stay are left out."""
        now_s = self._clock()
        with self._heard:
            if now_s - self._judged_s >= self._down_after_s:
                # Nobody was heard or asked for so long: we slept (suspended, starved), so silence proves nothing.
                self._trust_until_s = now_s + self._down_after_s
            self._judged_s = now_s
            trusting = now_s < self._trust_until_s
            judged = [(member, self._judged(member, now_s, trusting)) for member in members]
        return [after for before, after in judged if after is not before]

    def judge_one(self, member: MemberRow) -> MemberRow | None:
        """Like `judge`, for a member that has just reported."""
        with self._heard:
            after = self._judged(member, self._clock(), trusting=True)
        return None if after is member else after

    def _judged(self, row: MemberRow, now_s: float, trusting: bool) -> MemberRow:
        report = self._reports.get(row.server_id)
        if report is None or now_s - report.heard_s >= self._down_after_s:
            unheard = row.state in ("new", "down") or trusting
            return row if unheard else replace(row, state="down")
        stat = report.stat
        moved_bytes = max(abs(stat.free_bytes - row.free_bytes), abs(stat.total_bytes - row.total_bytes))
        if (stat.state, report.url) == (row.state, row.url) and moved_bytes * _SPACE_STEP <= stat.total_bytes:
            return row
        return replace(
            row,
            url=report.url,
            state=stat.state,
            free_bytes=stat.free_bytes,
            total_bytes=stat.total_bytes,
            chunks=stat.chunks,
        )
