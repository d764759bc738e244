"""Whose data directory it is: one process, one server id, one cluster; and what survives in it."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from chunkserver.core import LocalChunkStore
from chunkserver.data_directory import DataDirectory
from native.checksum import crc32c
from tests.chunkserver.rooms import CLUSTER_ID, OTHER_CLUSTER_ID, engine_options
from tests.wire.serving import ROOT
from wire.errors import BadRequest, ChunkNotFound, ChunkUnreadable, Conflict, Unavailable

PAYLOAD = os.urandom(300_000)


def open_store(path: Path, server_id: str | None = None, cluster_id: str = CLUSTER_ID) -> LocalChunkStore:
    return LocalChunkStore.open(path, engine_options(cluster_id), server_id=server_id)


def put(store: LocalChunkStore, fid: int, payload: bytes = PAYLOAD) -> None:
    store.put(fid, payload, crc32c(payload))


def get(store: LocalChunkStore, fid: int, length: int = len(PAYLOAD)) -> bytes:
    buffer = bytearray(length)
    store.read_into(fid, 0, buffer)
    return bytes(buffer)


def test_a_restart_keeps_chunks_and_identity(tmp_path: Path) -> None:
    store = open_store(tmp_path / "new" / "data")
    assert stat.S_IMODE((tmp_path / "new" / "data").stat().st_mode) == 0o700
    put(store, 5)
    put(store, 900)
    store.delete(900)
    info, server_id = store.info(5), store.server_id
    assert server_id.startswith("cs-")
    store.close()
    store.close()
    with pytest.raises(Unavailable):
        store.stat()
    again = open_store(tmp_path / "new" / "data")
    assert (again.server_id, again.cluster_id) == (server_id, CLUSTER_ID)
    assert again.info(5) == info
    assert get(again, 5) == PAYLOAD
    with pytest.raises(ChunkNotFound):
        again.info(900)
    assert again.stat().fid_max == 900
    again.close()


def test_a_second_process_is_refused_by_name(tmp_path: Path) -> None:
    program = (
        "import sys, pathlib\n"
        "from tests.chunkserver.test_data_directory import open_store\n"
        "open_store(pathlib.Path(sys.argv[1]))\n"
    )
    store = open_store(tmp_path)
    put(store, 5)
    argv = [sys.executable, "-c", program, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    second = subprocess.run(argv, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert second.returncode != 0
    assert f"data directory {tmp_path} is in use by another process (process id {os.getpid()})" in second.stderr
    with pytest.raises(Conflict, match="in use"):
        open_store(tmp_path)  # nor twice in one process
    assert get(store, 5) == PAYLOAD
    store.close()
    assert subprocess.run(argv, cwd=ROOT, env=environment, timeout=60, check=False).returncode == 0


def test_a_directory_of_another_server_is_refused_with_both_ids(tmp_path: Path) -> None:
    open_store(tmp_path, "cs-one").close()
    with pytest.raises(Conflict, match=r"belongs to server cs-one, not to cs-two"):
        open_store(tmp_path, "cs-two")
    open_store(tmp_path, "cs-one").close()
    open_store(tmp_path).close()


def test_a_directory_of_another_cluster_is_refused_with_both_ids(tmp_path: Path) -> None:
    open_store(tmp_path, "cs-one").close()
    with pytest.raises(Conflict, match=f"cluster {CLUSTER_ID}, not to {OTHER_CLUSTER_ID}"):
        open_store(tmp_path, cluster_id=OTHER_CLUSTER_ID)
    open_store(tmp_path).close()


def test_the_engine_knows_its_cluster_without_the_identity_file(tmp_path: Path) -> None:
    open_store(tmp_path, "cs-one").close()
    file = tmp_path / "server.json"
    file.write_text(json.dumps({"server_id": "cs-one", "cluster_id": None, "format": 1}))
    with pytest.raises(Conflict):
        open_store(tmp_path, cluster_id=OTHER_CLUSTER_ID)
    open_store(tmp_path).close()


def test_a_disk_that_is_not_there_is_not_taken_for_an_empty_one(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    put(store, 5)
    store.close()
    (tmp_path / "disk").rename(tmp_path / "unmounted")
    (tmp_path / "disk").mkdir()
    with pytest.raises(Conflict):
        open_store(tmp_path)
    shutil.rmtree(tmp_path / "disk")
    (tmp_path / "unmounted").rename(tmp_path / "disk")
    store = open_store(tmp_path)
    assert get(store, 5) == PAYLOAD
    store.close()


def test_chunks_without_an_identity_are_not_adopted(tmp_path: Path) -> None:
    open_store(tmp_path).close()
    (tmp_path / "server.json").unlink()
    with pytest.raises(Conflict, match=r"server\.json"):
        open_store(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"server_id": 5}', '{"cluster_id": null}'])
def test_an_identity_that_cannot_be_read_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "server.json").write_text(text)
    with pytest.raises(Conflict, match=r"server\.json cannot be understood"):
        open_store(tmp_path)


def test_a_directory_of_a_newer_program_is_refused(tmp_path: Path) -> None:
    (tmp_path / "server.json").write_text(json.dumps({"server_id": "cs-1", "cluster_id": CLUSTER_ID, "format": 2}))
    with pytest.raises(Conflict, match="format 2"):
        open_store(tmp_path)


def test_what_is_no_id_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match="server id"):
        open_store(tmp_path / "a", "no such/id")
    with pytest.raises(BadRequest, match="cluster id"):
        open_store(tmp_path / "b", cluster_id="my cluster")


def test_a_directory_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Unavailable, match=str(tmp_path)):
        open_store(tmp_path / "file" / "data")


def test_a_failed_start_leaves_the_directory_free(tmp_path: Path) -> None:
    with pytest.raises(BadRequest):
        open_store(tmp_path, cluster_id="my cluster")
    open_store(tmp_path).close()


def test_damaged_bytes_are_never_read_and_harm_nothing_else(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    put(store, 5)
    put(store, 6, b"the next one")
    store.close()
    flip_a_byte_of(PAYLOAD, tmp_path)
    store = open_store(tmp_path)
    with pytest.raises(ChunkUnreadable):
        get(store, 5)
    # A part whose blocks are whole is still good.
    part = bytearray(1000)
    store.read_into(5, 0, part)
    assert part == PAYLOAD[:1000]
    assert get(store, 6, 12) == b"the next one"
    put(store, 7)
    assert get(store, 7) == PAYLOAD
    store.close()


def flip_a_byte_of(payload: bytes, data: Path) -> None:
    """Flip the last byte of the one stored copy of `payload`."""
    for volume in (data / "disk").glob("*.dat"):
        content = volume.read_bytes()
        at = content.find(payload[-64:])
        if at >= 0:
            with volume.open("r+b") as file:
                file.seek(at + 63)
                file.write(bytes([payload[-1] ^ 1]))
            return
    raise AssertionError("the payload is in no volume")


def test_a_server_waits_for_the_one_before_it(tmp_path: Path) -> None:
    program = (
        "import sys, pathlib\n"
        "from chunkserver.data_directory import DataDirectory\n"
        "DataDirectory.open(pathlib.Path(sys.argv[1]))\n"
        "print('held', flush=True)\n"
        "sys.stdin.read()\n"
    )
    argv = [sys.executable, "-c", program, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(argv, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as before:
        assert before.stdout is not None
        assert before.stdout.readline() == b"held\n"
        with pytest.raises(Conflict):
            DataDirectory.open(tmp_path, lock_wait_s=0.1)
        before.kill()
        DataDirectory.open(tmp_path, lock_wait_s=20.0).close()


def test_a_copy_of_a_directory_is_told_apart_by_its_id(tmp_path: Path) -> None:
    open_store(tmp_path / "a", "cs-one").close()
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    with pytest.raises(Conflict, match="cs-one"):
        open_store(tmp_path / "b", "cs-two")
