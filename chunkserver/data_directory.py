"""Whose data directory this is, and who has it open.

    <data>/server.json         server id, cluster id, and the disks that it has had
    <data>/server.lock         flock'ed while a process uses the directory; holds that process's id
    <data>/space.reserve, start.reserve   space for a full disk (wire.space_reserve)
    <data>/group-table.json    the last group table a master sent (chunkserver.table_file); disposable
    <data>/disk/               the engine's files (native/include/engine.h), unless chunkserver.disks says where
    <data>/disk-<number>.deleted   what is to be deleted on a disk that is away (chunkserver.due_deletes)

A directory belongs to one server id for ever, and to one cluster from the moment that its server joined one.
"""

from __future__ import annotations

import json
import os
import re
import uuid
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from wire import directory_lock
from wire.errors import BadRequest, Conflict, Unavailable
from wire.files import PRIVATE_DIRECTORY, replace_file
from wire.values import from_json

_FORMAT = 1
_LOCK = "server.lock"
_SERVER_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True)
class Identity:
    """`cluster_id` is None until the server has joined a cluster; it never changes after that. `disks`: directories of
    chunkserver.disks that have been used, in the order in which they came; none is ever taken away. `own_disk`:
    <data>/disk has been used as one of several."""

    server_id: str
    cluster_id: str | None = None
    format: int = _FORMAT
    disks: tuple[str, ...] = ()
    own_disk: bool = False


class DataDirectory:
    """An open (locked) data directory. Not to be carried over a fork: the lock would be shared."""

    def __init__(self, path: Path, lock_fd: int, identity: Identity) -> None:
        self.path = path
        self.identity = identity
        self._lock_fd = lock_fd

    @classmethod
    def open(cls, path: Path, *, server_id: str | None = None, lock_wait_s: float = 0.0) -> DataDirectory:
        """Create or open `path` and hold it. A fresh one gets `server_id`, or an id of its own making.

        Waits up to `lock_wait_s` for a process before us to leave. Raises Conflict when another process has the
        directory open, when it belongs to another server id, or was written by a newer program; BadRequest for a
        malformed server id; Unavailable when the directory cannot be used.
        """
        if server_id is not None and not _SERVER_ID.fullmatch(server_id):
            raise BadRequest(f"{server_id!r} is no server id: 1 to 64 letters, digits, '.', '_' or '-'")
        try:
            path.mkdir(parents=True, exist_ok=True, mode=PRIVATE_DIRECTORY)
            lock_fd = directory_lock.lock(path, _LOCK, wait_s=lock_wait_s)
            try:
                return cls(path, lock_fd, _load_or_create(path, server_id))
            except BaseException:
                os.close(lock_fd)
                raise
        except OSError as exc:
            raise Unavailable(f"data directory {path} cannot be used: {exc}") from exc

    @property
    def disk(self) -> Path:
        return self.path / "disk"

    def own_disk(self, several: bool) -> Path | None:
        """<data>/disk, when it is in use; also when it is not there now. `several`: other disks are set."""
        identity = self.identity
        used = identity.own_disk or (identity.cluster_id is not None and not identity.disks)
        return self.disk if used or not several or self.disk.exists() else None

    def check_cluster(self, cluster_id: str) -> str:
        """The cluster id in its usual form; raises Conflict when the directory belongs to another cluster."""
        try:
            wanted = str(uuid.UUID(cluster_id))
        except ValueError as exc:
            raise BadRequest(f"{cluster_id!r} is no cluster id") from exc
        own = self.identity.cluster_id
        if own not in (None, wanted):
            raise Conflict(
                f"data directory {self.path} of server {self.identity.server_id} belongs to cluster {own}, "
                f"not to {wanted}"
            )
        return wanted

    def join(self, cluster_id: str, disks: tuple[str, ...] = (), own_disk: bool = False) -> None:
        """Make the directory part of a cluster, for ever; harmless to repeat. To be called when its stores stand, those
        of `disks` too."""
        cluster_id = self.check_cluster(cluster_id)
        joined = replace(self.identity, cluster_id=cluster_id, disks=disks, own_disk=own_disk)
        if self.identity == joined:
            return
        try:
            _write(self.path, joined)
        except OSError as exc:
            raise Unavailable(f"data directory {self.path} cannot be written: {exc}") from exc
        self.identity = joined

    def close(self) -> None:
        """Let another process have the directory; harmless to repeat."""
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1


def _load_or_create(path: Path, server_id: str | None) -> Identity:
    file = path / "server.json"
    if not file.exists():
        if (path / "disk").exists():
            # Chunks without a name: starting would give another server's chunks a new identity.
            raise Conflict(f"data directory {path} holds chunks but no server.json: it was not made by this program")
        identity = Identity(server_id or f"cs-{uuid.uuid4().hex[:12]}")
        _write(path, identity)
        return identity
    try:
        data = json.loads(file.read_text("utf-8"))
        if isinstance(data, dict) and isinstance(data.get("format"), int) and data["format"] > _FORMAT:
            raise Conflict(f"{file} has format {data['format']}, this program knows formats up to {_FORMAT}")
        identity = from_json(Identity, data)
    except (ValueError, BadRequest) as exc:
        raise Conflict(f"{file} cannot be understood: {exc}") from exc
    if server_id is not None and identity.server_id != server_id:
        raise Conflict(f"data directory {path} belongs to server {identity.server_id}, not to {server_id}")
    return identity


def _write(path: Path, identity: Identity) -> None:
    """Durably: chunks are stored under this name from now on."""
    replace_file(path / "server.json", json.dumps(asdict(identity), indent=1) + "\n")
