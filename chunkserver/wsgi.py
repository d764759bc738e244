"""Composition root of a ChunkServer process: settings in, a running app out."""

from __future__ import annotations

from chunkmaster.client import HttpChunkMaster
from chunkserver.app import create_app
from chunkserver.core import LocalChunkStore
from chunkserver.data_directory import DataDirectory
from chunkserver.engine_settings import engine_options, scrub_limits
from chunkserver.heartbeat import Heartbeats
from chunkserver.interface import CHUNK_BYTES_MAX
from chunkserver.joining import JoiningChunkStore
from chunkserver.payloads import PayloadMemory
from chunkserver.table_file import GroupTableFile
from wire.auth import ClusterKey
from wire.buffers import IdleTrim
from wire.server import RoomApp, StartRefused
from wire.settings import ChunkServerSettings, Settings
from wire.space_reserve import SpaceReserve

#: how long a start waits for the process before it to leave the data directory
LOCK_WAIT_S = 2.0

_EVERY_ADDRESS = ("0.0.0.0", "::")  # noqa: S104 - compared with, not bound to


def build(settings: Settings) -> RoomApp:
    """Opens the data directory and starts the heartbeats; to be called in the process that serves.

    Raises StartRefused for settings that do not suffice, Conflict for a data directory that is in use or belongs to
    another server or cluster, Unavailable when its disk fails.
    """
    own = settings.chunkserver
    if settings.cluster.key_file is None:
        raise StartRefused("cluster.key_file is not set: `speedy key generate` makes one")
    if not settings.cluster.masters:
        raise StartRefused("cluster.masters is not set: a ChunkServer reports to at least one ChunkMaster")
    url = _advertised(own)
    key = ClusterKey.load(settings.cluster.key_file)
    directory = DataDirectory.open(own.data, server_id=own.server_id, lock_wait_s=LOCK_WAIT_S)
    reserve = SpaceReserve(directory.path)
    try:
        store = JoiningChunkStore(
            directory,
            lambda held, cluster_id: LocalChunkStore.open_in(
                held, engine_options(own, cluster_id), scrub_limits(own), reserve, own.disks
            ),
        )
    except BaseException:
        directory.close()
        raise
    tables = GroupTableFile(directory.path / "group-table.json")
    masters = [HttpChunkMaster([base_url], key) for base_url in settings.cluster.masters]
    heartbeats = Heartbeats(masters, store, url, tables, heartbeat_s=own.heartbeat_s)
    share_bytes = max(own.buffer_bytes_max // 2, CHUNK_BYTES_MAX)
    incoming, outgoing = PayloadMemory(share_bytes), PayloadMemory(share_bytes)
    trim = IdleTrim(incoming, outgoing)
    app = create_app(store, key=key, ready=store.check, tables=tables, incoming=incoming, outgoing=outgoing)
    heartbeats.start()
    trim.start()
    reserve.start()

    def close() -> None:
        heartbeats.stop()
        trim.close()
        reserve.close()
        for master in masters:
            master.close()
        store.close()

    return RoomApp(app, close)


def _advertised(own: ChunkServerSettings) -> str:
    if own.advertise_url is not None:
        return own.advertise_url
    if own.listen.host in _EVERY_ADDRESS or own.listen.port == 0:
        raise StartRefused(
            f"chunkserver.listen is {own.listen}, which is no address that others could use: "
            "set chunkserver.advertise_url"
        )
    return f"http://{own.listen}"
