"""Heartbeats: tells every master, again and again, how this ChunkServer is, and keeps the group table it answers with.

One thread per master: each master sees every ChunkServer, so any of them can judge alone, and a dead one delays nobody.
A master that is down changes nothing here; it is told again with the next beat.
"""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Sequence
from typing import Protocol

from chunkmaster.interface import ChunkMaster, Heartbeat
from chunkserver.interface import StoreStat
from chunkserver.table_file import GroupTableFile
from wire.errors import SpeedyError

log = logging.getLogger("speedy.chunkserver")

_JITTER = 0.1  # beats of many servers that started together drift apart


class ReportingStore(Protocol):
    """What is told of: LocalChunkStore, or a JoiningChunkStore whose `cluster_id` is None until it has joined."""

    @property
    def server_id(self) -> str: ...

    @property
    def cluster_id(self) -> str | None: ...

    def join(self, cluster_id: str) -> None: ...

    def stat(self) -> StoreStat: ...


class Heartbeats:
    """`url`: where ImageServers reach this server. Started after the fork; `stop` waits at most `timeout_s`."""

    def __init__(
        self,
        masters: Sequence[ChunkMaster],
        store: ReportingStore,
        url: str,
        tables: GroupTableFile,
        *,
        heartbeat_s: float = 1.0,
    ) -> None:
        self._store = store
        self._url = url
        self._tables = tables
        self._heartbeat_s = heartbeat_s
        self._stopped = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(master,), name=f"heartbeat-{number}", daemon=True)
            for number, master in enumerate(masters, 1)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self, timeout_s: float = 5.0) -> None:
        self._stopped.set()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(timeout_s)

    def beat(self, master: ChunkMaster) -> None:
        """One report, and before it what makes this server part of a cluster. Raises what the master raises."""
        if self._store.cluster_id is None:
            table = master.group_table()
            assert table is not None  # asked without a version
            self._store.join(table.cluster_id)
            log.info("server %s has joined cluster %s", self._store.server_id, table.cluster_id)
        cluster_id = self._store.cluster_id
        known = self._tables.table
        ours = known is not None and known.cluster_id == cluster_id
        table = master.heartbeat(
            Heartbeat(
                server_id=self._store.server_id,
                url=self._url,
                stat=self._store.stat(),
                cluster_id=cluster_id,
                known_version=known.version if known is not None and ours else None,
            )
        )
        if table is not None:
            self._tables.keep(table)

    def _run(self, master: ChunkMaster) -> None:
        trouble: str | None = "first"
        while not self._stopped.is_set():
            try:
                self.beat(master)
                if trouble is not None:
                    log.info("server %s reports to a ChunkMaster", self._store.server_id)
                trouble = None
            except SpeedyError as exc:
                # Once per kind of trouble: a master that is away for a night is one line, not 30,000.
                if trouble != exc.code:
                    log.warning("no ChunkMaster takes the reports of server %s: %s", self._store.server_id, exc)
                trouble = exc.code
            except Exception:
                log.exception("a heartbeat failed for a reason that is a defect; the next one follows")
                trouble = "defect"
            self._stopped.wait(self._heartbeat_s * random.uniform(1 - _JITTER, 1 + _JITTER))  # noqa: S311 - jitter
