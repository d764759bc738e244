"""The embedded server: every room in one process, composed without HTTP between them. Same code as in a cluster.

    /v2/ -> Registry -> ChunkedDriver -> LocalImageStore -> LocalChunkStore -> C engine      (group 1, one member)
                     -> LocalMetaStore -> SQLite <- LocalChunkMaster <- heartbeats

Operator commands reach the ChunkMaster's group table and the upkeep of the ChunkServer through the same port, signed
with the cluster's key, which stands in the data directory.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import Any, cast

from flask import Flask

import chunkmaster.migrations
import metaserver.migrations
from chunkmaster.app import create_app as create_master_app
from chunkmaster.core import LocalChunkMaster
from chunkserver.app import UPKEEP_NOUNS, create_upkeep_app
from chunkserver.core import LocalChunkStore
from chunkserver.engine_settings import engine_options, scrub_limits
from chunkserver.heartbeat import Heartbeats
from chunkserver.interface import CHUNK_BYTES_MAX
from chunkserver.metrics import StoreCollector
from chunkserver.payloads import PayloadMemory
from chunkserver.table_file import GroupTableFile
from imageserver.core import ImageLimits, LocalImageStore
from imageserver.fids import FidLimits
from imageserver.table import TableLimits
from metaserver.core import LocalMetaStore
from registry_driver.composition import compose
from speedy.data_directory import ServerData
from wire.auth import SCHEME, ClusterKey
from wire.buffers import IdleTrim
from wire.database import create_engine
from wire.server import RoomApp
from wire.service import metrics_of
from wire.settings import Settings
from wire.space_reserve import SpaceReserve

SERVER_ID = "embedded"
MEMBER_URL = f"local:{SERVER_ID}"

#: the member is this process: when its heartbeats are late the machine is busy, and it is not down
MEMBER_DOWN_AFTER_S = 60.0

#: how long a worker waits for the one before it, which was killed a moment ago, to be gone from the chunks
LOCK_WAIT_S = 5.0

# Small pieces overlap reading, verifying and sending: without HTTP in between a round trip costs nothing.
_READ_PIECE_BYTES = 1024 * 1024


def build(settings: Settings, held: ServerData) -> RoomApp:
    """Open everything in `held` and start the background threads; to be called in the process that serves.

    Raises Conflict for data of another cluster, server or a newer program; Unavailable when the disk fails.
    """
    with ExitStack() as opened:
        database = create_engine(
            held.database_url, wait_s=settings.database.wait_s, pool_max=settings.database.pool_max
        )
        opened.callback(database.dispose)
        chunkmaster.migrations.upgrade(database, held.cluster_id)
        metaserver.migrations.upgrade(database)
        reserve = SpaceReserve(held.path)
        store = LocalChunkStore.open(
            held.chunks,
            engine_options(settings.chunkserver, held.cluster_id),
            server_id=SERVER_ID,
            lock_wait_s=LOCK_WAIT_S,
            scrub=scrub_limits(settings.chunkserver),
            reserve=reserve,
            disks=settings.chunkserver.disks,
        )
        opened.callback(store.close)
        master = LocalChunkMaster(database, down_after_s=max(MEMBER_DOWN_AFTER_S, settings.chunkmaster.down_after_s))
        master.add_group(((SERVER_ID, MEMBER_URL),))
        heartbeats = Heartbeats(
            [master],
            store,
            MEMBER_URL,
            GroupTableFile(held.chunks / "group-table.json"),
            heartbeat_s=settings.chunkserver.heartbeat_s,
        )
        # The first one at once: without it there is no group that takes writes.
        heartbeats.beat(master)
        heartbeats.start()
        opened.callback(heartbeats.stop)
        images = LocalImageStore(
            master,
            lambda member: store,
            owner=f"{socket.gethostname()[:64]}:{os.getpid()}",
            limits=ImageLimits(
                put_deadline_s=settings.imageserver.put_deadline_s,
                table=TableLimits(refresh_s=settings.imageserver.refresh_s),
                fids=FidLimits(count=settings.imageserver.fids_reserved),
            ),
        )
        images.start()
        opened.callback(images.close)
        meta = LocalMetaStore(database)
        room = compose(meta, images, settings.registry, read_piece_bytes=_READ_PIECE_BYTES)
        opened.callback(room.close)
        reserve.start()
        opened.callback(reserve.close)
        metrics_of(cast(Flask, room.app)).register(StoreCollector(store))
        key = ClusterKey.load(held.key_file)
        outgoing = PayloadMemory(CHUNK_BYTES_MAX)
        trim = IdleTrim(outgoing)
        trim.start()
        opened.callback(trim.close)
        master_app = create_master_app(master, key=key, ready=master.check)
        upkeep_app = create_upkeep_app(store, key=key, ready=master.check, outgoing=outgoing)
        close = opened.pop_all().close
    return RoomApp(_with_operator_calls(room.app, master_app, upkeep_app), close)


def _with_operator_calls(
    registry: Callable[..., Any], master: Callable[..., Any], upkeep: Callable[..., Any]
) -> Callable[..., Any]:
    """The registry's app, and beside it the internal calls that operator commands need. What is not signed goes to the
    registry, which has no such path: strangers are not told that there is more."""

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        chosen = registry
        path: str = environ["PATH_INFO"]
        if path.startswith("/v1/") and environ.get("HTTP_AUTHORIZATION", "").startswith(SCHEME):
            noun = path.split("/", 3)[2]
            if noun in UPKEEP_NOUNS:
                chosen = upkeep
            elif path == "/v1/groups" and environ["REQUEST_METHOD"] == "GET":
                chosen = master
        answer: Iterable[bytes] = chosen(environ, start_response)
        return answer

    return app
