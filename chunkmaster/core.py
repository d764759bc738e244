"""LocalChunkMaster: the ChunkMaster over a database, in this process.

Rows are the truth (chunkmaster.table, chunkmaster.fids); what ChunkServers report is held in memory
(chunkmaster.health) and written only when it changes a row. The table is served from memory, so a database that pauses
stops neither heartbeats nor readers of the table; only reservations and new groups wait for it.

Several masters may share a database. Every ChunkServer reports to all of them, so they see the same and write the same.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable
from urllib.parse import urlsplit

from sqlalchemy import Engine

from chunkmaster import fids, migrations, table
from chunkmaster.health import Health, MemberRow
from chunkmaster.interface import FIDS_MAX, REPLICAS_MAX, FidRange, Group, GroupTable, Heartbeat, Member
from chunkmaster.table import TableRows
from wire.errors import BadRequest, Conflict, DeadlineExceeded, GroupNotFound, SpeedyError

log = logging.getLogger("speedy.chunkmaster")

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
#: an owner of fids is a server's name for people, such as host:port or a name with a random part
_OWNER = re.compile(r"[\x21-\x7e]{1,128}")


class LocalChunkMaster:
    """`clock`: monotonic seconds. `refresh_s`: how old the rows in memory may be (other masters write them too).
    `turn_wait_s`: how long a call waits for another one that talks to the database before it goes on without."""

    def __init__(
        self,
        engine: Engine,
        *,
        clock: Callable[[], float] = time.monotonic,
        down_after_s: float = 3.0,
        refresh_s: float = 0.5,
        turn_wait_s: float = 1.0,
        database_pause_s: float = 1.0,
    ) -> None:
        self._engine = engine
        self._clock = clock
        self._health = Health(clock, down_after_s)
        self._refresh_s = min(refresh_s, down_after_s / 4)
        self._turn_wait_s = turn_wait_s
        self._database_pause_s = database_pause_s
        self._turn = threading.Lock()  # one thread at a time reads or writes the rows of the table
        self._rows: TableRows | None = None
        self._read_s = float("-inf")
        self._schema_known = False
        self._trouble = ""

    @property
    def cluster_id(self) -> str:
        return self._current().cluster_id

    def check(self) -> None:
        """Return if reservations and new groups would work: the database answers and has this program's schema."""
        migrations.check(self._engine)
        self._current()

    def add_group(self, members: tuple[tuple[str, str], ...]) -> Group:
        _check_members(members)
        self._ensure_schema()
        group_id = table.add_group(self._engine, members)
        rows = self._reload()
        log.info("group %d has members %s", group_id, ", ".join(name for name, _ in members))
        return self._group(rows, group_id)

    def group_table(self, known_version: int | None = None) -> GroupTable | None:
        rows = self._current()
        if known_version == rows.version:
            return None
        return GroupTable(rows.cluster_id, rows.version, tuple(self._group(rows, group) for group in rows.groups))

    def reserve_fids(self, owner: str, count: int) -> FidRange:
        if not _OWNER.fullmatch(owner):
            raise BadRequest(f"{owner!r} cannot own fids: 1 to 128 printable characters without spaces are wanted")
        if not 1 <= count <= FIDS_MAX:
            raise BadRequest(f"{count} fids cannot be reserved, 1 to {FIDS_MAX} can")
        self._health.wait_heard(self._current().members.values())
        return fids.reserve(self._engine, owner, count, above_fid=self._health.fid_max())

    def close_fid_range(self, range_id: int) -> None:
        self._ensure_schema()
        fids.close(self._engine, range_id)

    def heartbeat(self, beat: Heartbeat) -> GroupTable | None:
        _check_url(beat.server_id, beat.url)
        rows = self._current()
        row = rows.members.get(beat.server_id)
        if row is None:
            # It may have been added by another master a moment ago.
            rows = self._reload()
            row = rows.members.get(beat.server_id)
        if row is None:
            raise GroupNotFound(f"server {beat.server_id} is in no group: add it with `speedy group add`")
        if beat.cluster_id is not None and beat.cluster_id != rows.cluster_id:
            raise Conflict(
                f"server {beat.server_id} at {beat.url} holds data of cluster {beat.cluster_id}, "
                f"this is cluster {rows.cluster_id}"
            )
        self._health.hear(beat)
        changed = self._health.judge_one(row)
        if changed is not None:
            self._write([changed])
        return self.group_table(beat.known_version)

    # -- the rows in memory ----------------------------------------------------------------------------------------

    def _current(self) -> TableRows:
        """The rows, read again when they are older than refresh_s, with this master's judgement written into them."""
        rows = self._rows
        if rows is None:
            return self._reload()
        if self._clock() - self._read_s >= self._refresh_s and self._turn.acquire(blocking=False):
            try:
                self._refresh(rows)
            finally:
                self._turn.release()
        return self._rows or rows

    def _refresh(self, rows: TableRows) -> None:
        """With the turn. Trouble with the database leaves the rows as they are, to be tried again after a pause."""
        try:
            rows = table.load(self._engine, rows)
            changed = self._health.judge(rows.members.values())
            if changed:
                rows = self._store(rows, changed)
            self._take(rows)
        except SpeedyError as exc:
            self._pause(exc)

    def _write(self, changed: list[MemberRow]) -> None:
        """Write judged rows. What cannot be written now is judged again at the next heartbeat."""
        if not self._turn.acquire(timeout=self._turn_wait_s):
            return
        try:
            if self._trouble and self._clock() < self._read_s + self._refresh_s:
                return  # the pause after a failure
            rows = self._rows
            assert rows is not None  # the heartbeat was looked up in them
            self._take(self._store(rows, changed))
        except SpeedyError as exc:
            self._pause(exc)
        finally:
            self._turn.release()

    def _store(self, rows: TableRows, changed: list[MemberRow]) -> TableRows:
        table.write_members(self._engine, changed)
        for row in changed:
            before = rows.members.get(row.server_id)
            if before is not None and before.state != row.state:
                level = logging.WARNING if row.state in ("down", "failed") else logging.INFO
                log.log(level, "server %s of group %d: %s -> %s", row.server_id, row.group_id, before.state, row.state)
        return table.load(self._engine, rows)

    def _reload(self) -> TableRows:
        """Read the rows now; raises what stands in the way."""
        if not self._turn.acquire(timeout=self._turn_wait_s):
            raise DeadlineExceeded("the database does not answer other requests either")
        try:
            self._ensure_schema()
            return self._take(table.load(self._engine, self._rows))
        finally:
            self._turn.release()

    def _take(self, rows: TableRows) -> TableRows:
        if self._trouble:
            log.info("the database answers again")
            self._trouble = ""
        self._rows = rows
        self._read_s = self._clock()
        return rows

    def _pause(self, exc: SpeedyError) -> None:
        if not self._trouble:
            log.warning("the group table goes on from memory: %s", exc)
        self._trouble = str(exc)
        # The next look at the database comes after the pause instead of refresh_s.
        self._read_s = self._clock() + self._database_pause_s - self._refresh_s

    def _ensure_schema(self) -> None:
        if not self._schema_known:
            migrations.check(self._engine)
            self._schema_known = True

    # -- values ----------------------------------------------------------------------------------------------------

    def _group(self, rows: TableRows, group_id: int) -> Group:
        replicas, server_ids = rows.groups[group_id]
        return Group(group_id, replicas, tuple(self._member(rows.members[server_id]) for server_id in server_ids))

    def _member(self, row: MemberRow) -> Member:
        """States and addresses are the row's, so that a version has one content; space is as fresh as we have it."""
        report = self._health.report(row.server_id)
        if report is None:
            return Member(row.server_id, row.url, row.state, row.free_bytes, row.total_bytes, row.chunks, None)
        stat = report.stat
        age_s = self._health.age_s(report)
        return Member(
            row.server_id,
            row.url,
            row.state,
            stat.free_bytes,
            stat.total_bytes,
            stat.chunks,
            age_s,
            bad_volumes=stat.volumes_failed + stat.volumes_quarantined,
            damaged=stat.damaged,
            scrubbed_s=stat.scrubbed_s,
            bad_disks=stat.disks_failed,
        )


def _check_members(members: tuple[tuple[str, str], ...]) -> None:
    if not 1 <= len(members) <= REPLICAS_MAX:
        raise BadRequest(f"a group has 1 to {REPLICAS_MAX} members, not {len(members)}")
    for server_id, url in members:
        _check_url(server_id, url)
    if len({server_id for server_id, _ in members}) < len(members) or len({url for _, url in members}) < len(members):
        raise BadRequest("a server id or an address occurs twice")


def _check_url(server_id: str, url: str) -> None:
    if not _NAME.fullmatch(server_id):
        raise BadRequest(f"{server_id!r} is no server id: 1 to 64 letters, digits, '.', '_' or '-'")
    if url == f"local:{server_id}":
        return
    try:
        parts = urlsplit(url)
        well_formed = parts.scheme == "http" and bool(parts.hostname) and parts.port != 0
    except ValueError:
        well_formed = False
    if not well_formed or len(url) > 256 or url != f"{parts.scheme}://{parts.netloc}" or "@" in parts.netloc:
        raise BadRequest(f"{url!r} is no server address: http://host:port is wanted, or local:{server_id}")
