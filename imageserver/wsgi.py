"""Composition root of an ImageServer process: settings in, a running app out."""

from __future__ import annotations

import os
import secrets
import socket

from chunkmaster.client import HttpChunkMaster
from chunkmaster.interface import GroupTable, Member
from chunkserver.client import HttpChunkStore
from chunkserver.interface import ChunkStore
from imageserver.app import chunk_buffers, create_app
from imageserver.core import ImageLimits, LocalImageStore
from imageserver.fids import FidLimits
from imageserver.replica import ReplicaStore
from imageserver.table import TableLimits
from wire.auth import ClusterKey
from wire.buffers import IdleTrim
from wire.errors import NotFound
from wire.pulse import Pulse
from wire.server import RoomApp, StartRefused
from wire.settings import Settings

#: for an answer of the ChunkMaster; nobody waits for it but the threads that refresh
MASTER_TIMEOUT_S = 5.0

#: for a ChunkServer's copy of the group table, asked for while no master answers
TABLE_TIMEOUT_S = 2.0

#: a write's share of the deadline for storing a chunk: with the usual 30 s three groups can be tried
WRITE_SHARE = 3


def build(settings: Settings) -> RoomApp:
    """To be called in the process that serves, after any fork. Raises StartRefused for settings that do not suffice."""
    cluster, own = settings.cluster, settings.imageserver
    if cluster.key_file is None:
        raise StartRefused("cluster.key_file is not set: `speedy key generate` makes one")
    if not cluster.masters:
        raise StartRefused("cluster.masters is not set: an ImageServer needs the URL of at least one ChunkMaster")
    key = ClusterKey.load(cluster.key_file)
    write_timeout_s = max(own.replica_timeout_s, own.put_deadline_s / WRITE_SHARE)

    def open_store(member: Member) -> ChunkStore:
        return ReplicaStore(
            reads=HttpChunkStore(member.url, key, read_timeout_s=own.replica_timeout_s, attempts_max=1),
            writes=HttpChunkStore(member.url, key, read_timeout_s=write_timeout_s, attempts_max=1),
            pulse=Pulse(member.url, key),
        )

    def ask_member(member: Member) -> GroupTable | None:
        server = HttpChunkStore(member.url, key, read_timeout_s=TABLE_TIMEOUT_S, attempts_max=1)
        try:
            return server.group_table()
        except NotFound:
            return None
        finally:
            server.close()

    master = HttpChunkMaster(cluster.masters, key, read_timeout_s=MASTER_TIMEOUT_S)
    store = LocalImageStore(
        master,
        open_store,
        owner=f"{socket.gethostname()[:64]}:{os.getpid()}:{secrets.token_hex(4)}",
        limits=ImageLimits(
            write_timeout_s=write_timeout_s,
            put_deadline_s=own.put_deadline_s,
            table=TableLimits(refresh_s=own.refresh_s),
            fids=FidLimits(count=own.fids_reserved),
        ),
        state_dir=own.state_dir,
        ask_member=ask_member,
    )
    buffers = chunk_buffers(settings.registry.chunk_bytes, own.buffer_count)
    app = create_app(store, key=key, buffers=buffers, counters=store.counters)
    store.start()
    trim = IdleTrim(buffers.usual, buffers.large)
    trim.start()

    def close() -> None:
        trim.close()
        store.close()
        master.close()

    return RoomApp(app, close)
