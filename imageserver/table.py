"""The group table as this ImageServer has it: refreshed in the background, kept in a disposable file.

The master is asked every `refresh_s`; a failure changes nothing. So that a restarted ImageServer serves while no
master is up, the last table is kept in a file, and the ChunkServers named in it are asked for theirs, which the
master hands them with every heartbeat. Losing the file costs nothing as long as a master answers.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

from chunkmaster.interface import ChunkMaster, Group, GroupTable, Member
from wire.errors import SpeedyError, Unavailable
from wire.values import from_json, to_json

log = logging.getLogger("speedy.imageserver")

FILE_NAME = "group-table.json"
FILE_FORMAT = 1


@dataclass(frozen=True, slots=True)
class TableLimits:
    """`refresh_s`: how often the master is asked whether anything changed. `full_refresh_s`: how often for the whole
    table (free space alone does not change its version). `members_refresh_s`: how often ChunkServers are asked while
    no master answers, `members_asked_max` of them each time."""

    refresh_s: float = 1.0
    full_refresh_s: float = 30.0
    members_refresh_s: float = 10.0
    members_asked_max: int = 5


class GroupTableCache:
    """Thread-safe. `ask_member` fetches the table that a ChunkServer holds (None when it holds none)."""

    def __init__(
        self,
        master: ChunkMaster,
        clock: Callable[[], float],
        *,
        state_dir: Path | None = None,
        ask_member: Callable[[Member], GroupTable | None] | None = None,
        limits: TableLimits | None = None,
        on_change: Callable[[GroupTable], None] | None = None,
    ) -> None:
        self._master = master
        self._clock = clock
        self._file = state_dir / FILE_NAME if state_dir is not None else None
        self._ask_member = ask_member
        self._limits = limits or TableLimits()
        self._on_change = on_change
        self._random = Random()  # noqa: S311 - spreads load, keeps no secret
        self._refreshing = threading.Lock()
        self._table: GroupTable | None = None
        self._by_id: tuple[GroupTable | None, dict[int, Group]] = (None, {})  # worked out once per table
        self._from_master = False
        self._whole_asked_s: float | None = None
        self._members_asked_s: float | None = None
        self._master_error: SpeedyError | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Read the file and begin to refresh in the background."""
        self._load()
        if self._thread is None:
            self._thread = threading.Thread(target=self._refresh_for_ever, name="group-table", daemon=True)
            self._thread.start()

    def close(self) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=5.0)

    def current(self) -> GroupTable:
        """The newest table known; asks for one only when there is none. Raises Unavailable when none can be had."""
        table = self._table
        if table is None:
            self._load()
            self.refresh()
            table = self._table
        if table is None:
            raise Unavailable(f"no group table: {self._master_error or 'the ChunkMaster has not answered yet'}")
        return table

    def group(self, group_id: int) -> Group | None:
        table = self.current()
        known, by_id = self._by_id
        if known is not table:
            by_id = {group.group_id: group for group in table.groups}
            self._by_id = (table, by_id)
        return by_id.get(group_id)

    def refresh(self, *, whole: bool = False) -> None:
        """Ask the master now (while no master answers: the ChunkServers). Failures are remembered, not raised."""
        if not self._refreshing.acquire(timeout=5.0):
            return  # somebody is asking the same
        try:
            self._refresh(whole)
        finally:
            self._refreshing.release()

    def _refresh(self, whole: bool) -> None:
        now_s = self._clock()
        due_s = self._whole_asked_s
        whole = whole or not self._from_master or due_s is None or now_s - due_s >= self._limits.full_refresh_s
        known = self._table.version if self._table is not None and not whole else None
        try:
            answer = self._master.group_table(known)
        except SpeedyError as error:
            if self._master_error is None:
                log.warning("the ChunkMaster gives no group table, going on with what is known: %s", error)
            self._master_error = error
            self._refresh_from_members(now_s)
            return
        if self._master_error is not None:
            log.info("the ChunkMaster answers again")
        self._master_error = None
        if whole:
            self._whole_asked_s = now_s
        if answer is not None:
            self._take_from_master(answer)

    def _take_from_master(self, answer: GroupTable) -> None:
        if self._from_master and self._table is not None and answer.cluster_id != self._table.cluster_id:
            # An address that now leads elsewhere must not turn this server's reads and writes over to another cluster.
            log.error(
                "a ChunkMaster of cluster %s answers, this is cluster %s", answer.cluster_id, self._table.cluster_id
            )
            return
        self._from_master = True
        self._take(answer)

    def _refresh_from_members(self, now_s: float) -> None:
        table = self._table
        asked_s = self._members_asked_s
        if self._ask_member is None or table is None:
            return
        if asked_s is not None and now_s - asked_s < self._limits.members_refresh_s:
            return
        self._members_asked_s = now_s
        members = [member for group in table.groups for member in group.members]
        for member in self._random.sample(members, min(len(members), self._limits.members_asked_max)):
            try:
                answer = self._ask_member(member)
            except SpeedyError:
                continue  # the next one may be up; that this one is not, its reads and writes will tell
            if answer is None or answer.cluster_id != table.cluster_id:
                continue
            if answer.version > table.version:
                self._take(answer)
            return

    def _take(self, answer: GroupTable) -> None:
        if answer == self._table:
            return
        changed = self._table is None or answer.version != self._table.version
        self._table = answer
        if changed:
            log.info("group table version %d with %d groups", answer.version, len(answer.groups))
            self._save(answer)
        if self._on_change is not None:
            self._on_change(answer)

    def _refresh_for_ever(self) -> None:
        while True:
            self.refresh()
            if self._stop.wait(self._limits.refresh_s):
                return

    # -- the disposable file ---------------------------------------------------------------------------------------
    def _load(self) -> None:
        if self._file is None or self._table is not None:
            return
        try:
            content = json.loads(self._file.read_bytes())
            if content["format"] == FILE_FORMAT:
                self._table = from_json(GroupTable, content["table"])
        except FileNotFoundError:
            return
        except (OSError, ValueError, KeyError, TypeError, SpeedyError) as error:
            log.warning("%s is not usable and is ignored: %s", self._file, error)

    def _save(self, table: GroupTable) -> None:
        if self._file is None:
            return
        content = json.dumps({"format": FILE_FORMAT, "table": to_json(table)}).encode()
        # One name per process: several workers may share the directory. Not synced: the file is disposable.
        draft = self._file.with_name(f"{FILE_NAME}.{os.getpid()}")
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            draft.write_bytes(content)
            draft.replace(self._file)
        except OSError as error:
            log.warning("the group table could not be kept in %s: %s", self._file, error)
