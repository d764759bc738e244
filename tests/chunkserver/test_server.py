"""A whole ChunkServer process beside a ChunkMaster that comes and goes."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from chunkmaster.client import HttpChunkMaster
from chunkmaster.interface import GroupTable, Member
from chunkserver.client import HttpChunkStore
from native.checksum import crc32c
from tests.chunkmaster.rooms import KEY, free_port
from tests.chunkserver.test_data_directory import flip_a_byte_of
from tests.disks import small_disk, take_all
from tests.wire.serving import Server, start, stop, wait_until
from wire.errors import ChunkUnreadable, NotFound, SpeedyError, Unavailable
from wire.space_reserve import RESERVE_FILE

WAIT_S = 30.0
PAYLOAD = os.urandom(300_000)


@dataclass(slots=True)
class Bench:
    """One master and one ChunkServer at fixed addresses; both are started and ended by the tests."""

    place: Path
    master_port: int
    server_port: int
    master: HttpChunkMaster
    store: HttpChunkStore
    running: list[Server]

    @property
    def server_url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def start_master(self, name: str = "master") -> Server:
        arguments = {"database_url": f"sqlite:///{self.place}/{name}.db", "key_file": str(self.place / "key")}
        return self._start("tests.chunkmaster.rooms:build_master", arguments, self.master_port, ready=True)

    def start_server(self, *, ready: bool, server_id: str = "cs-1") -> Server:
        arguments: dict[str, Any] = {
            "data": str(self.place / "data"),
            "masters": [f"http://127.0.0.1:{self.master_port}"],
            "key_file": str(self.place / "key"),
            "server_id": server_id,
            "port": self.server_port,
        }
        return self._start("tests.chunkserver.rooms:build_chunkserver", arguments, self.server_port, ready=ready)

    def _start(self, build: str, arguments: dict[str, Any], port: int, *, ready: bool) -> Server:
        server = start(build, arguments, ready=ready, port=port, graceful_timeout_s=5.0)
        self.running.append(server)
        return server

    def member(self) -> Member | None:
        """The ChunkServer as the master sees it; None while no master answers."""
        try:
            table = self.master.group_table()
        except SpeedyError:
            return None
        assert table is not None
        return next((m for group in table.groups for m in group.members), None)

    def wait_rw(self) -> None:
        wait_until(lambda: (m := self.member()) is not None and m.state == "rw", WAIT_S, "the member's health")

    def last_table(self) -> GroupTable | None:
        try:
            return self.store.group_table()
        except NotFound:
            return None


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    KEY.save(tmp_path / "key")
    master_port, server_port = free_port(), free_port()
    bench = Bench(
        tmp_path,
        master_port,
        server_port,
        HttpChunkMaster([f"http://127.0.0.1:{master_port}"], KEY),
        HttpChunkStore(f"http://127.0.0.1:{server_port}", KEY, attempts_max=1),
        [],
    )
    yield bench
    for server in reversed(bench.running):
        stop(server)
    bench.master.close()
    bench.store.close()


def put(bench: Bench, fid: int, payload: bytes = PAYLOAD) -> None:
    bench.store.put(fid, payload, crc32c(payload))


def get(bench: Bench, fid: int) -> bytes:
    buffer = bytearray(len(PAYLOAD))
    bench.store.read_into(fid, 0, buffer)
    return bytes(buffer)


def test_a_server_that_starts_first_joins_when_a_master_comes_and_does_not_need_it_after(bench: Bench) -> None:
    server = bench.start_server(ready=False)
    wait_until(lambda: answers(server), WAIT_S, "an answer")
    status, body = server.get("/readyz")
    assert status == 503
    assert b"has not joined a cluster" in body
    with pytest.raises(Unavailable, match="has not joined"):
        put(bench, 1)

    master = bench.start_master()
    wait_until(lambda: server.get("/readyz")[0] == 200, WAIT_S, "the join")
    put(bench, 1)
    assert bench.last_table() is None  # no group has it yet
    assert bench.member() is None
    group = bench.master.add_group((("cs-1", bench.server_url),))
    bench.wait_rw()
    wait_until(lambda: bench.last_table() is not None, WAIT_S, "the table")
    member = bench.member()
    assert member is not None
    assert member.chunks == 1
    assert 0 < member.free_bytes <= member.total_bytes

    master.stop(signal.SIGKILL)
    put(bench, 2)
    assert get(bench, 1) == get(bench, 2) == PAYLOAD
    assert server.get("/readyz")[0] == 200

    server.stop(signal.SIGKILL)
    server = bench.start_server(ready=True)  # without any master
    assert get(bench, 1) == get(bench, 2) == PAYLOAD
    put(bench, 3)
    table = bench.last_table()
    assert table is not None
    assert [g.group_id for g in table.groups] == [group.group_id]
    assert table.groups[0].members[0].url == bench.server_url

    bench.start_master()
    bench.wait_rw()
    reserved = bench.master.reserve_fids("front-1", 1)
    assert reserved.first > 3, "the master goes by what the server has seen"


def answers(server: Server) -> bool:
    try:
        return server.get("/healthz")[0] == 200
    except OSError:
        return False


def test_a_server_that_stops_is_down_and_up_again_after_its_restart(bench: Bench) -> None:
    bench.start_master()
    bench.master.add_group((("cs-1", bench.server_url),))
    server = bench.start_server(ready=True)
    bench.wait_rw()
    server.stop()
    wait_until(lambda: (m := bench.member()) is not None and m.state == "down", WAIT_S, "the fall")
    bench.start_server(ready=True)
    bench.wait_rw()


def test_a_master_of_another_cluster_does_not_get_the_server(bench: Bench) -> None:
    first = bench.start_master()
    bench.master.add_group((("cs-1", bench.server_url),))
    server = bench.start_server(ready=True)
    bench.wait_rw()
    put(bench, 1)
    wait_until(lambda: bench.last_table() is not None, WAIT_S, "the table")
    first.stop()
    bench.start_master("another-master")
    bench.master.add_group((("cs-1", bench.server_url),))
    wait_until(lambda: "holds data of cluster" in server.log, WAIT_S, "the refusal")
    member = bench.member()
    assert member is not None
    assert member.state == "new"
    assert get(bench, 1) == PAYLOAD
    table, other = bench.last_table(), bench.master.group_table()
    assert table is not None
    assert other is not None
    assert table.cluster_id != other.cluster_id


def test_a_second_server_on_the_directory_ends_with_a_clear_message(bench: Bench) -> None:
    bench.start_master()
    first = bench.start_server(ready=True)
    put(bench, 1)
    port, bench.server_port = bench.server_port, free_port()
    with pytest.raises(RuntimeError) as caught:
        bench.start_server(ready=True)
    assert f"data directory {bench.place / 'data'} is in use by another process" in str(caught.value)
    assert str(first.worker_pid) in str(caught.value)
    bench.server_port = port
    assert get(bench, 1) == PAYLOAD


def test_a_server_with_another_id_ends_with_a_clear_message(bench: Bench) -> None:
    first = bench.start_server(ready=False)
    wait_until(lambda: answers(first), WAIT_S, "the directory's identity")
    first.stop()
    with pytest.raises(RuntimeError, match="belongs to server cs-1, not to cs-2"):
        bench.start_server(ready=True, server_id="cs-2")


def test_a_damaged_chunk_is_not_served_and_the_server_lives(bench: Bench) -> None:
    bench.start_master()
    server = bench.start_server(ready=True)
    put(bench, 1)
    put(bench, 2, PAYLOAD[::-1])
    pid = server.worker_pid
    flip_a_byte_of(PAYLOAD, bench.place / "data")
    with pytest.raises(ChunkUnreadable):
        get(bench, 1)
    assert get(bench, 2) == PAYLOAD[::-1]
    put(bench, 3)
    assert get(bench, 3) == PAYLOAD
    assert server.worker_pid == pid


def test_a_killed_worker_is_replaced_and_has_the_chunks(bench: Bench) -> None:
    bench.start_master()
    server = bench.start_server(ready=True)
    put(bench, 1)
    before = server.worker_pid
    os.kill(before, signal.SIGKILL)

    def back() -> bool:
        try:
            return get(bench, 1) == PAYLOAD
        except SpeedyError:
            return False

    wait_until(back, WAIT_S, "the new worker")
    assert server.worker_pid != before


def test_on_a_disk_that_others_filled_it_serves_reads_deletes_and_starts_again(bench: Bench) -> None:
    with small_disk("ext4", 200 << 20, bench.place / "data") as disk:
        try:
            _fill_the_disk_of(bench, disk)
        finally:
            for server in reversed(bench.running):
                stop(server)
            bench.running.clear()


def _fill_the_disk_of(bench: Bench, disk: Path) -> None:
    bench.start_master()
    server = bench.start_server(ready=False)
    bench.master.add_group((("cs-1", bench.server_url),))
    bench.wait_rw()
    for fid in (1, 2, 3):
        put(bench, fid)
    assert server.get("/readyz") == (200, b'{"status":"ready","service":"chunkserver","writes":"accepted"}\n')
    wait_until((disk / RESERVE_FILE).exists, WAIT_S, "a reserve")

    take_all(disk / "of-somebody-else")
    wait_until(lambda: (m := bench.member()) is not None and m.state == "ro_full", WAIT_S, "the full disk to be seen")
    wait_until(lambda: not (disk / RESERVE_FILE).exists(), WAIT_S, "the reserve to be given up")
    _is_full_and_serves(bench, server)
    assert bench.store.delete(2)

    server.stop(signal.SIGKILL)
    os.truncate(disk / "server.lock", 0)  # as where it was killed before it could write its process id
    take_all(disk / "of-somebody-else")
    server = bench.start_server(ready=True)
    _is_full_and_serves(bench, server)
    with pytest.raises(NotFound):
        get(bench, 2)
    (disk / "of-somebody-else").unlink()
    bench.wait_rw()
    put(bench, 4)
    wait_until(lambda: b'"writes":"accepted"' in server.get("/readyz")[1], WAIT_S, "writes to be accepted")


def _is_full_and_serves(bench: Bench, server: Server) -> None:
    status, body = server.get("/readyz")
    assert status == 200
    assert json.loads(body)["writes"] == "refused"
    assert json.loads(body)["reason"]["code"] == "storage_full"
    assert get(bench, 1) == get(bench, 3) == PAYLOAD
