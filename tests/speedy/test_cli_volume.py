"""`speedy volume` on a stopped server's directory and on a running server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from chunkserver.core import LocalChunkStore
from native.checksum import crc32c
from tests.chunkmaster.rooms import KEY
from tests.chunkserver.rooms import engine_options
from tests.native.test_read_only import fingerprint
from tests.speedy.embedded import environment, speedy
from tests.wire.serving import serving

PAYLOADS = {fid: os.urandom(fid * 1000) for fid in range(1, 30)}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """The directory of a server that has stopped; chunk 7 has been deleted."""
    store = LocalChunkStore.open(tmp_path / "data", engine_options(), server_id="cs-http")
    for fid, payload in PAYLOADS.items():
        store.put(fid, payload, crc32c(payload))
    store.delete(7)
    store.close()
    return tmp_path / "data"


def damage(data: Path, fid: int) -> None:
    """Flip a bit in the payload of a chunk."""
    for volume in (data / "disk").glob("*.dat"):
        at = volume.read_bytes().find(PAYLOADS[fid])
        if at >= 0:
            with volume.open("r+b") as file:
                file.seek(at + 10)
                file.write(bytes([PAYLOADS[fid][10] ^ 4]))
            return
    raise AssertionError("the chunk is in no volume")


def dump(*arguments: str) -> bytes:
    command = [sys.executable, "-m", "speedy", "volume", "dump", *arguments]
    done = subprocess.run(command, capture_output=True, timeout=60, env=environment(), check=True)
    return done.stdout


def test_looking_at_a_stopped_server_tells_all_and_changes_nothing(data: Path) -> None:
    before = fingerprint(data / "disk")
    where = ("--data", str(data))
    volumes = json.loads(speedy("volume", "ls", *where, "--json").stdout)
    assert sum(volume["chunks"] for volume in volumes) == len(PAYLOADS) - 1
    assert "live share" in speedy("volume", "ls", *where).stdout
    shown = []
    for volume in volumes:
        shown += json.loads(speedy("volume", "show", str(volume["id"]), *where, "--json").stdout)
        assert str(volume["id"]) in speedy("volume", "ls", *where).stdout
    assert {chunk["fid"]: chunk["length"] for chunk in shown} == {
        fid: len(payload) for fid, payload in PAYLOADS.items() if fid != 7
    }
    first = speedy("volume", "show", str(shown[0]["volume"]), *where, "--limit", "1").stdout
    assert str(shown[0]["fid"]) in first
    assert f"{shown[0]['crc32c']:08x}" in first
    assert dump("21", *where) == PAYLOADS[21]
    done = speedy("volume", "verify", *where, "--json")
    assert (done.returncode, json.loads(done.stdout)) == (0, {"checked_chunks": len(PAYLOADS) - 1, "damage": []})
    assert fingerprint(data / "disk") == before


def test_verify_reports_each_damaged_chunk_and_ends_with_status_1(data: Path) -> None:
    for fid in (3, 19):
        damage(data, fid)
    before = fingerprint(data / "disk")
    where = ("--data", str(data))
    done = speedy("volume", "verify", *where, "--json")
    found = json.loads(done.stdout)["damage"]
    assert (done.returncode, sorted(one["fid"] for one in found)) == (1, [3, 19])
    table = speedy("volume", "verify", *where)
    assert table.returncode == 1
    assert "fails its checksum" in table.stdout
    in_volume = [
        one["fid"]
        for volume in {one["volume"] for one in found}
        for one in json.loads(speedy("volume", "verify", str(volume), *where, "--json").stdout)["damage"]
    ]
    assert sorted(in_volume) == [3, 19]
    assert fingerprint(data / "disk") == before
    refused = speedy("volume", "dump", "3", *where)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "corrupt" in refused.stderr


def test_scrub_and_compact_work_on_a_stopped_server(data: Path) -> None:
    where = ("--data", str(data))
    done = speedy("volume", "scrub", *where, "--rate", "1GiB", "--json")
    assert (done.returncode, json.loads(done.stdout)["checked_chunks"]) == (0, len(PAYLOADS) - 1)
    damage(data, 5)
    done = speedy("volume", "scrub", *where, "--rate", "1GiB")
    assert done.returncode == 1
    assert "fails its checksum" in done.stdout
    store = LocalChunkStore.open(data, engine_options())
    assert store.scrub_status().rounds == 2  # the server knows that it was done
    for fid in range(10, 30):
        store.delete(fid)
    store.put(5, PAYLOADS[5], crc32c(PAYLOADS[5]))
    store.close()
    done = speedy("volume", "compact", *where, "--below", "1", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["volumes_removed"] >= 1
    assert dump("8", *where) == PAYLOADS[8]


def test_a_running_server_is_asked_over_http_and_its_directory_refused(data: Path, tmp_path: Path) -> None:
    KEY.save(tmp_path / "key")
    with serving("tests.chunkserver.rooms:build_store", {"data": str(data)}) as server:
        variables = {"SPEEDY_CLUSTER_KEY_FILE": str(tmp_path / "key")}
        where = ("--url", server.url)
        volumes = json.loads(speedy("volume", "ls", *where, "--json", **variables).stdout)
        assert sum(volume["chunks"] for volume in volumes) == len(PAYLOADS) - 1
        number = next(volume["id"] for volume in volumes if volume["chunks"])
        assert json.loads(speedy("volume", "show", str(number), *where, "--json", **variables).stdout)
        done = speedy("volume", "scrub", *where, "--fresh", "--rate", "1GiB", "--json", **variables)
        assert (done.returncode, json.loads(done.stdout)["checked_chunks"]) == (0, len(PAYLOADS) - 1), done.stderr
        for command in (["ls"], ["verify"], ["scrub"], ["compact"]):
            refused = speedy("volume", *command, "--data", str(data))
            assert refused.returncode == 1
            assert "in use by a running server" in refused.stderr
            assert "--url" in refused.stderr
        assert "cluster.key_file" in speedy("volume", "ls", *where).stderr


@pytest.mark.parametrize(
    ("arguments", "told"),
    [(["show", "4711"], "no volume 4711"), (["dump", "4711"], "no chunk 4711"), (["verify", "4711"], "no volume 4711")],
)
def test_what_is_not_there_is_said_plainly(data: Path, arguments: list[str], told: str) -> None:
    done = speedy("volume", *arguments, "--data", str(data))
    assert done.returncode == 1
    assert told in done.stderr
    assert "Traceback" not in done.stderr


def test_a_directory_without_a_store_is_refused_and_stays_empty(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    done = speedy("volume", "ls", "--data", str(tmp_path / "empty"))
    assert done.returncode == 1
    assert "not a ChunkServer's directory" in done.stderr
    assert list((tmp_path / "empty").iterdir()) == []
