"""Settings of every room: frozen dataclasses, filled from one TOML file and the environment.

    [registry]                     # a section is a room (or cluster, database, log)
    listen = "127.0.0.1:5000"      # the same as SPEEDY_REGISTRY_LISTEN=127.0.0.1:5000

Order: environment before file before default. The file is the one given, else ./speedy.toml, else
/etc/speedy/speedy.toml, else none. wire.settings_load.load reads, checks everything and reports all mistakes at once;
unknown keys are mistakes. Only composition roots (a room's wsgi.py, speedy/) see these classes; cores take values.

Names end in their unit. Sizes are bytes (4194304 or "4MiB"), times seconds (30 or "30s", "7d").
"""

# ruff: noqa: RUF009 -- _setting() makes a dataclass field, it is no default that instances would share
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from wire.settings_values import (
    GIB,
    KIB,
    MIB,
    Address,
    Choice,
    Count,
    DatabaseUrl,
    Duration,
    FilePath,
    Kind,
    Listen,
    Name,
    OriginList,
    PathList,
    Share,
    Size,
    Url,
    UrlList,
)

_THREADS = Count(2, 1024)

#: and a last write that is late; a registry waits a little longer for an ImageServer (imageserver.client.ClientLimits)
PUT_DEADLINE_S_MAX = 30.0


def _setting(default: Any, kind: Kind, says: str) -> Any:
    """A dataclass field that knows how its value is read and what it is for."""
    return field(default=default, metadata={"kind": kind, "says": says})


@dataclass(frozen=True, slots=True)
class ClusterSettings:
    key_file: Path | None = _setting(None, FilePath(), "file with the key that all rooms of the cluster share")
    masters: tuple[str, ...] = _setting((), UrlList(), "base URLs of the ChunkMasters")
    metaservers: tuple[str, ...] = _setting((), UrlList(), "base URLs of the MetaServers")
    imageservers: tuple[str, ...] = _setting((), UrlList(), "base URLs of the ImageServers")


@dataclass(frozen=True, slots=True)
class DatabaseSettings:
    url: str | None = _setting(
        None, DatabaseUrl(), "where metadata lives (of the embedded server: in its data directory)"
    )
    wait_s: float = _setting(30.0, Duration(0.1, 600), "how long a request waits for a database that does not answer")
    pool_max: int = _setting(16, Count(1, 512), "connections of one process to the database")


@dataclass(frozen=True, slots=True)
class ChunkServerSettings:
    listen: Address = _setting(Address("127.0.0.1", 5400), Listen(), "address of this ChunkServer")
    data: Path = _setting(Path("data/chunks"), FilePath(), "directory that keeps the chunks")
    disks: tuple[Path, ...] = _setting(
        (),
        PathList(40),
        "directories that keep the chunks instead, each on a disk of its own; one that fails takes only itself down",
    )
    server_id: str | None = _setting(
        None, Name(), "this server's id in its group (made at the first start when not given)"
    )
    advertise_url: str | None = _setting(
        None, Url(), "base URL under which ImageServers reach it (default: from listen)"
    )
    sync: Literal["group", "none"] = _setting(
        "group",
        Choice(("group", "none")),
        '"group": acknowledged means on disk; "none": acknowledged may be lost in a power cut',
    )
    heartbeat_s: float = _setting(1.0, Duration(0.05, 60), "time between two reports to the ChunkMaster")
    appenders: int = _setting(4, Count(1, 8), "threads that write to the disk at once, each to another volume")
    volume_bytes_first: int = _setting(
        64 * MIB, Size(MIB, 64 * GIB), "size of the first volume file; later ones double"
    )
    volume_bytes_max: int = _setting(1 * GIB, Size(MIB, 64 * GIB), "largest size of a volume file")
    reserve_bytes: int | None = _setting(None, Size(), "disk space kept free (default: two volumes; 1 % to 1/16 of it)")
    scrub_bytes_s: int = _setting(
        16 * MIB,
        Size(),
        "bytes per second at which stored chunks are read and verified in the background; 0: not at all",
    )
    scrub_every_s: float = _setting(
        7 * 86400.0, Duration(60, 366 * 86400), "time between the beginnings of two such rounds over everything stored"
    )
    compact_below: float = _setting(
        0.7, Share(), "volumes with a smaller live share are packed anew by themselves; 0: none are"
    )
    compact_bytes_s: int = _setting(
        64 * MIB, Size(), "bytes a second that packing may write; 0: as many as the disk can"
    )
    buffer_bytes_max: int = _setting(256 * MIB, Size(64 * MIB), "memory for payloads in transfer")
    threads: int = _setting(32, _THREADS, "requests served at once")


@dataclass(frozen=True, slots=True)
class ChunkMasterSettings:
    listen: Address = _setting(Address("127.0.0.1", 5300), Listen(), "address of this ChunkMaster")
    down_after_s: float = _setting(
        3.0, Duration(0.2, 600), "a ChunkServer that reports nothing for so long counts as down"
    )
    threads: int = _setting(16, _THREADS, "requests served at once")


@dataclass(frozen=True, slots=True)
class MetaServerSettings:
    listen: Address = _setting(Address("127.0.0.1", 5200), Listen(), "address of this MetaServer")
    threads: int = _setting(32, _THREADS, "requests served at once")


@dataclass(frozen=True, slots=True)
class ImageServerSettings:
    listen: Address = _setting(Address("127.0.0.1", 5100), Listen(), "address of this ImageServer")
    state_dir: Path | None = _setting(None, FilePath(), "directory for the last known group table (disposable)")
    replica_timeout_s: float = _setting(
        3.0, Duration(0.1, 60), "how long one replica may take to answer before another is asked"
    )
    put_deadline_s: float = _setting(
        30.0, Duration(1, PUT_DEADLINE_S_MAX), "how long storing a chunk may take over all attempts"
    )
    refresh_s: float = _setting(1.0, Duration(0.1, 60), "time between two looks at the ChunkMaster's group table")
    fids_reserved: int = _setting(10_000, Count(100, 1_000_000), "chunk ids fetched from the ChunkMaster at a time")
    buffer_count: int = _setting(48, Count(2, 4096), "chunk buffers in memory, over all requests")
    threads: int = _setting(32, _THREADS, "requests served at once")


@dataclass(frozen=True, slots=True)
class RegistrySettings:
    listen: Address = _setting(Address("127.0.0.1", 5000), Listen(), "address that docker and others talk to")
    data: Path = _setting(Path("data"), FilePath(), "data directory of the embedded server")
    chunk_bytes: int = _setting(4 * MIB, Size(64 * KIB, 64 * MIB), "size of the chunks that layers are cut into")
    write_window: int = _setting(4, Count(1, 64), "chunks of one upload in flight")
    read_window: int = _setting(4, Count(1, 64), "chunks of one download in flight")
    buffer_count: int = _setting(48, Count(2, 4096), "chunk buffers in memory, over all requests")
    manifest_bytes_max: int = _setting(4 * MIB, Size(64 * KIB, 64 * MIB), "largest manifest that is accepted")
    uploads_max: int = _setting(24, Count(1, 1024), "uploads that send bytes at once; others wait")
    downloads_max: int = _setting(24, Count(1, 1024), "downloads at once; others wait")
    requests_max: int = _setting(16, Count(1, 1024), "small requests at once; others wait")
    waiting_max: int = _setting(
        120,
        Count(0, 1024),
        "requests that may wait for their turn, of each kind; others get 503. Some clients ask for all layers of an "
        "image at once (up to 127) and give up when one is refused",
    )
    body_idle_s: float = _setting(
        60.0, Duration(1, 3600), "a client that sends no byte of its body for so long is given up"
    )
    stalled_after_s: float = _setting(
        5.0,
        Duration(0.1, 3600),
        "a transfer that moves no byte for so long is ended when another one waits for its place",
    )
    slow_bytes_per_s: int = _setting(
        16 * KIB,
        Size(),
        "a transfer that moves fewer bytes per second over slow_window_s is ended when another one waits for its place",
    )
    slow_window_s: float = _setting(60.0, Duration(1, 3600), "time over which a transfer's pace is averaged")
    reclaim_after_s: float = _setting(
        900.0,
        Duration(0, 366 * 86400),
        "age at which deleted content's space is taken back; below 300 s, the life of a signed request, one that is "
        "replayed may name chunks that are gone",
    )
    upload_expires_s: float = _setting(
        7 * 86400.0,
        Duration(1, 366 * 86400),
        "an upload to which nothing was added for so long is ended, and its space taken back",
    )
    web_origins: tuple[str, ...] = _setting(
        (), OriginList(), "sites whose pages may use the registry from a browser, such as a web interface (CORS)"
    )
    threads: int = _setting(640, _THREADS, "requests served at once, those that wait among them")


@dataclass(frozen=True, slots=True)
class LogSettings:
    level: Literal["debug", "info", "warning", "error"] = _setting(
        "info", Choice(("debug", "info", "warning", "error")), "least important messages that are written"
    )
    format: Literal["text", "json"] = _setting("text", Choice(("text", "json")), "form of the lines on standard error")


@dataclass(frozen=True, slots=True)
class Origin:
    """Where an effective value came from: `kind`, and the file's path or the variable's name."""

    kind: Literal["default", "file", "environment", "option"]
    name: str = ""

    def __str__(self) -> str:
        return f"{self.kind} {self.name}".rstrip()


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that can be set. `origins` maps "section.key" to its value's source; what is missing is a default."""

    cluster: ClusterSettings = ClusterSettings()
    database: DatabaseSettings = DatabaseSettings()
    chunkserver: ChunkServerSettings = ChunkServerSettings()
    chunkmaster: ChunkMasterSettings = ChunkMasterSettings()
    metaserver: MetaServerSettings = MetaServerSettings()
    imageserver: ImageServerSettings = ImageServerSettings()
    registry: RegistrySettings = RegistrySettings()
    log: LogSettings = LogSettings()
    origins: Mapping[str, Origin] = field(default_factory=dict)
