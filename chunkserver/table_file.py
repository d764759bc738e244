"""The last group table that a master sent, kept in a disposable file.

ImageServers that start while no master is up ask ChunkServers for it, so it outlives a restart of this server. It is
not synced: after a power cut an older table, or none, is as good as a new server's.
"""

from __future__ import annotations

import json
import logging
import threading
from pathlib import Path

from chunkmaster.interface import GroupTable
from wire.errors import BadRequest
from wire.values import from_json, to_json

log = logging.getLogger("speedy.chunkserver")


class GroupTableFile:
    """Thread-safe. `path` None keeps the table in memory only."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._table = self._load()

    @property
    def table(self) -> GroupTable | None:
        return self._table

    def keep(self, table: GroupTable) -> None:
        with self._lock:
            self._table = table
            if self._path is None:
                return
            temporary = self._path.with_name(self._path.name + ".tmp")
            try:
                temporary.write_text(json.dumps(to_json(table)), "utf-8")
                temporary.rename(self._path)
            except OSError as exc:
                log.warning("the group table is kept in memory only, %s cannot be written: %s", self._path, exc)

    def _load(self) -> GroupTable | None:
        if self._path is None:
            return None
        try:
            return from_json(GroupTable, json.loads(self._path.read_text("utf-8")))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, BadRequest) as exc:
            log.warning("%s is of no use, a master will send another: %s", self._path, exc)
            return None
