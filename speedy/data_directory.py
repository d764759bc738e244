"""The embedded server's data directory: whose it is, and who has it open.

<data>/speedy.json    format, cluster id; written once, at the first start
<data>/speedy.lock    flock'ed while a server runs; holds its process id
<data>/cluster.key    this cluster's key, made at the first start
<data>/metadata.db    SQLite: groups, files, catalogue
<data>/chunks/        the ChunkServer's directory (chunkserver.data_directory)
<data>/speedy.address.json    where the server listens, for other commands; there while it runs
<data>/space.reserve, start.reserve   space for a full disk (wire.space_reserve)
"""

from __future__ import annotations

import json
import os
import uuid
from dataclasses import dataclass
from pathlib import Path

from wire import directory_lock, space_reserve
from wire.auth import ClusterKey
from wire.errors import Conflict, Unavailable
from wire.files import PRIVATE_DIRECTORY, replace_file

FORMAT = 1
IDENTITY_FILE = "speedy.json"
_LOCK = "speedy.lock"
KEY_FILE = "cluster.key"
#: tells other commands where the server of a data directory listens, while it runs
ADDRESS_FILE = "speedy.address.json"
#: what a first start that was interrupted, or a file system, may have left in a directory that is ours to take
_HARMLESS = frozenset({_LOCK, KEY_FILE, *space_reserve.FILES, f"{IDENTITY_FILE}.tmp", "lost+found"})


@dataclass(frozen=True, slots=True)
class ServerData:
    """An open data directory. The lock is shared with forked workers and free again when the last of them is gone."""

    path: Path
    cluster_id: str
    lock_fd: int

    @property
    def database_url(self) -> str:
        return f"sqlite:///{self.path / 'metadata.db'}"

    @property
    def chunks(self) -> Path:
        return self.path / "chunks"

    @property
    def key_file(self) -> Path:
        return self.path / KEY_FILE

    def close(self) -> None:
        os.close(self.lock_fd)


def open_data(path: Path) -> ServerData:
    """Open or create the directory and hold it.

    Raises Conflict when another process has it open, when it holds something else, or was written by a newer program;
    Unavailable when it cannot be used.
    """
    path = path.absolute()
    try:
        if path.exists() and not path.is_dir():
            raise Unavailable(f"data directory {path} cannot be used: it is no directory")
        path.mkdir(parents=True, exist_ok=True, mode=PRIVATE_DIRECTORY)
        lock_fd = directory_lock.lock(path, _LOCK)
        try:
            cluster_id = _identity(path)
            if not (path / KEY_FILE).exists():
                ClusterKey.generate().save(path / KEY_FILE)
            return ServerData(path, cluster_id, lock_fd)
        except BaseException:
            os.close(lock_fd)
            raise
    except OSError as exc:
        raise Unavailable(f"data directory {path} cannot be used: {exc.strerror or exc}") from exc


def _identity(path: Path) -> str:
    """The cluster id that stands in the directory; a fresh one gets one."""
    file = path / IDENTITY_FILE
    if not file.exists():
        foreign = sorted(set(os.listdir(path)) - _HARMLESS)
        if foreign:
            # Starting would put a new cluster's name over somebody's chunks.
            raise Conflict(
                f"directory {path} holds {', '.join(foreign[:5])} but no {IDENTITY_FILE}: it is not a data directory "
                "of `speedy serve`; give an empty one"
            )
        cluster_id = str(uuid.uuid4())
        # Durably: everything else in the directory hangs on this id.
        replace_file(file, json.dumps({"format": FORMAT, "cluster_id": cluster_id}, indent=1) + "\n")
        return cluster_id
    try:
        told = json.loads(file.read_text("utf-8"))
        if not isinstance(told["format"], int) or not 1 <= told["format"] <= FORMAT:
            raise Conflict(f"{file} has format {told['format']}; this program knows formats up to {FORMAT}")
        return str(uuid.UUID(told["cluster_id"]))
    except (ValueError, KeyError, TypeError, AttributeError) as exc:
        raise Conflict(f"{file} cannot be understood: {exc!r}") from exc
