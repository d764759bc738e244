"""What tests of chunk rooms start in processes of their own, through tests.wire.serving."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from chunkserver import wsgi
from chunkserver.app import create_app
from chunkserver.client import HttpChunkStore
from chunkserver.core import LocalChunkStore
from chunkserver.disk import VOLUMES_PER_DISK
from chunkserver.interface import ChunkServer
from chunkserver.memory import MemoryChunkStore
from chunkserver.payloads import PayloadMemory
from chunkserver.table_file import GroupTableFile
from native.checksum import crc32c
from native.engine import EngineOptions
from tests.chunkmaster.rooms import KEY
from tests.wire.serving import serving
from wire.server import RoomApp
from wire.settings import ChunkServerSettings, ClusterSettings, Settings

CLUSTER_ID = "5b0ff6a2-3c1e-4d55-9d3b-6a9f1c0e7a11"
OTHER_CLUSTER_ID = "c2ae1f3e-7b41-4f0e-8a6c-2f1d9b8e5d22"

MIB = 1024 * 1024

#: options that make volumes which a small disk has room for
SMALL_VOLUMES = {"volume_size_first": MIB, "volume_size_max": MIB}

#: opens a data directory's store with these disks, and with options of the engine
OpenStore = Callable[..., LocalChunkStore]

#: implementations of ChunkServer
KINDS = ("memory", "local", "disks", "http")


def engine_options(cluster_id: str = CLUSTER_ID) -> EngineOptions:
    """Small volumes, so that a test's directory is small and several volumes are used."""
    return EngineOptions(cluster_id=cluster_id, volume_size_first=16 * MIB, volume_size_max=64 * MIB)


@contextmanager
def store_of(kind: str, directory: Path) -> Iterator[ChunkServer]:
    """One of the KINDS, open: those that the contract tests hold alike."""
    if kind == "memory":
        yield MemoryChunkStore()
    elif kind in ("local", "disks"):
        disks = [directory / f"disk-{number}" for number in range(3)] if kind == "disks" else []
        local = LocalChunkStore.open(directory, engine_options(), disks=disks)
        yield local
        local.close()
    else:
        with serving("tests.chunkserver.rooms:build_store", {"data": str(directory)}, threads=24) as server:
            client = HttpChunkStore(server.url, KEY)
            yield client
            client.close()


def build_store(data: str) -> RoomApp:
    """A ChunkServer without masters: the store of `data` over HTTP."""
    store = LocalChunkStore.open(Path(data), engine_options(), server_id="cs-http")
    memory = PayloadMemory(64 * MIB)
    app = create_app(
        store,
        key=KEY,
        ready=lambda: None,
        tables=GroupTableFile(None),
        incoming=memory,
        outgoing=memory,
    )
    return RoomApp(app, store.close)


def build_chunkserver(data: str, masters: list[str], key_file: str, server_id: str | None, port: int) -> RoomApp:
    """A whole ChunkServer, composed as in production; `port` is where it is served."""
    return wsgi.build(
        replace(
            Settings(),
            cluster=ClusterSettings(key_file=Path(key_file), masters=tuple(masters)),
            chunkserver=replace(
                ChunkServerSettings(),
                data=Path(data),
                server_id=server_id,
                advertise_url=f"http://127.0.0.1:{port}",
                heartbeat_s=0.1,
                volume_bytes_first=16 * MIB,
                volume_bytes_max=64 * MIB,
            ),
        )
    )


def payload_of(fid: int) -> bytes:
    return b"%d " % fid * (1 + fid * 7919 % 20_000)


def put(store: LocalChunkStore, fid: int) -> None:
    store.put(fid, payload_of(fid), crc32c(payload_of(fid)))


def check(store: LocalChunkStore, fid: int) -> None:
    buffer = bytearray(len(payload_of(fid)))
    store.read_into(fid, 0, buffer)
    assert buffer == payload_of(fid)


def disk_of(store: LocalChunkStore, fid: int) -> int:
    return store.info(fid).volume // VOLUMES_PER_DISK
