"""A whole small cluster of real processes: one ChunkMaster, a group of three ChunkServers, one ImageServer."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from chunkmaster.client import HttpChunkMaster
from chunkserver.client import HttpChunkStore
from imageserver.client import HttpImageStore
from imageserver.interface import ChunkRef
from native.checksum import crc32c
from tests.chunkmaster.rooms import KEY, free_port
from tests.imageserver.waiting import wait_until
from tests.wire.serving import Server, freeze, is_ready, start, stop
from wire.errors import NoGroupAvailable, SpeedyError, Unavailable

PAYLOAD = bytes(range(256)) * 8192  # 2 MiB


@dataclass
class Cluster:
    directory: Path
    key_file: Path
    running: ExitStack
    master: Server
    chunkservers: list[Server]
    imageserver: Server
    images: HttpImageStore

    def start_imageserver(self) -> None:
        self.imageserver = _start_imageserver(self.directory, self.key_file, self.master.url, self.running)
        self.images = HttpImageStore([self.imageserver.url], KEY)
        self.running.callback(self.images.close)


def _start_imageserver(directory: Path, key_file: Path, master_url: str, running: ExitStack) -> Server:
    arguments = {"masters": [master_url], "key_file": str(key_file), "state_dir": str(directory / "images")}
    server = start("tests.imageserver.rooms:build_imageserver", arguments, ready=False)
    running.callback(stop, server)
    return server


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    key_file = tmp_path / "cluster.key"
    KEY.save(key_file)
    with ExitStack() as running:
        master = start(
            "tests.chunkmaster.rooms:build_master",
            {"database_url": f"sqlite:///{tmp_path}/master.db", "key_file": str(key_file)},
        )
        running.callback(stop, master)
        ports = [free_port() for _ in range(3)]
        with_master = HttpChunkMaster([master.url], KEY)
        running.callback(with_master.close)
        with_master.add_group(tuple((f"cs{i}", f"http://127.0.0.1:{port}") for i, port in enumerate(ports)))
        chunkservers = []
        for index, port in enumerate(ports):
            arguments = {
                "data": str(tmp_path / f"cs{index}"),
                "masters": [master.url],
                "key_file": str(key_file),
                "server_id": f"cs{index}",
                "port": port,
            }
            chunkservers.append(start("tests.chunkserver.rooms:build_chunkserver", arguments, ready=False, port=port))
            running.callback(stop, chunkservers[-1])
        imageserver = _start_imageserver(tmp_path, key_file, master.url, running)
        images = HttpImageStore([imageserver.url], KEY)
        running.callback(images.close)
        wait_until(lambda: is_ready(imageserver), 30)
        yield Cluster(tmp_path, key_file, running, master, chunkservers, imageserver, images)


def put(images: HttpImageStore) -> ChunkRef:
    return images.put_chunk(PAYLOAD, crc32c(PAYLOAD))


def read(images: HttpImageStore, ref: ChunkRef) -> bytes:
    buffer = bytearray(ref.length)
    images.read_chunk_into(ref, 0, buffer)
    return bytes(buffer)


def test_a_cluster_of_processes_through_the_loss_of_each_of_its_parts(cluster: Cluster) -> None:
    refs = [put(cluster.images) for _ in range(6)]
    for number, server in enumerate(cluster.chunkservers):
        store = HttpChunkStore(server.url, KEY)
        for ref in refs:
            buffer = bytearray(ref.length)
            store.read_into(ref.fid, 0, buffer)
            assert bytes(buffer) == PAYLOAD, f"cs{number}"
        store.close()

    # the master dies: reads and writes go on
    cluster.master.stop(signal.SIGKILL)
    assert all(read(cluster.images, ref) == PAYLOAD for ref in refs)
    refs.append(put(cluster.images))

    # the ImageServer dies too and starts again without a master: reads go on
    os.kill(cluster.imageserver.worker_pid, signal.SIGKILL)
    cluster.imageserver.stop(signal.SIGKILL)
    cluster.start_imageserver()
    wait_until(lambda: _reads(cluster.images, refs[0]), 30)
    assert all(read(cluster.images, ref) == PAYLOAD for ref in refs)
    with pytest.raises(Unavailable, match="no fids"):
        put(cluster.images)

    # a ChunkServer hangs, another one dies: the third one serves every chunk
    freeze(cluster.chunkservers[0].worker_pid)
    try:
        cluster.chunkservers[1].stop(signal.SIGKILL)
        assert all(read(cluster.images, ref) == PAYLOAD for ref in refs)
    finally:
        os.kill(cluster.chunkservers[0].worker_pid, signal.SIGCONT)


def test_a_write_to_a_group_with_a_dead_member_fails_in_time_and_is_told(cluster: Cluster) -> None:
    put(cluster.images)
    cluster.chunkservers[2].stop(signal.SIGKILL)
    began_s = time.monotonic()
    with pytest.raises(NoGroupAvailable):
        put(cluster.images)
    assert time.monotonic() - began_s < 10.0  # not the silence of a client that gave up
    wait_until(lambda: cluster.imageserver.get("/readyz")[0] == 503, 10)
    assert cluster.imageserver.get("/healthz")[0] == 200


def _reads(images: HttpImageStore, ref: ChunkRef) -> bool:
    try:
        return read(images, ref) == PAYLOAD
    except SpeedyError:
        return False
