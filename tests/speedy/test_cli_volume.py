"""`speedy volume` on a stopped server's directory and on a running server."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import requests

from chunkmaster.interface import Group, GroupTable, Member
from chunkserver.client import HttpChunkStore
from chunkserver.core import LocalChunkStore
from chunkserver.table_file import GroupTableFile
from native.checksum import crc32c
from tests.chunkmaster.rooms import KEY
from tests.chunkserver.rooms import CLUSTER_ID, engine_options
from tests.native.test_read_only import fingerprint
from tests.speedy.embedded import EmbeddedServer, environment, speedy
from tests.speedy.pushing import Pusher
from tests.wire.serving import Server, serving, wait_until
from wire.auth import ClusterKey

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
    assert json.loads(speedy("volume", "dump", "21", *where, "--json").stdout)["length"] == len(PAYLOADS[21])
    done = speedy("volume", "verify", *where, "--json")
    told = json.loads(done.stdout)
    assert (done.returncode, told["state"], told["chunks"], told["damage"]) == (0, "done", len(PAYLOADS) - 1, [])
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
    named = sorted({one["volume"] for one in found})
    told = json.loads(speedy("volume", "verify", *map(str, named), *where, "--json").stdout)
    assert (sorted(one["fid"] for one in told["damage"]), told["volumes"]) == ([3, 19], named)
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
    number = json.loads(speedy("volume", "ls", *where, "--json").stdout)[-1]["id"]
    done = speedy("volume", "compact", str(number), *where)  # whatever it holds
    assert (done.returncode, "Removed 1 volume, made" in done.stdout) == (0, True), done.stderr
    both = speedy("volume", "compact", str(number), *where, "--below", "0.5")
    assert (both.returncode, "one of them" in both.stderr) == (2, True)


@pytest.fixture
def variables(tmp_path: Path) -> dict[str, str]:
    """Settings with the key of the servers that are started here."""
    KEY.save(tmp_path / "key")
    return {"SPEEDY_CLUSTER_KEY_FILE": str(tmp_path / "key")}


def test_a_running_server_is_asked_over_http(data: Path, variables: dict[str, str]) -> None:
    damage(data, 5)
    with serving("tests.chunkserver.rooms:build_store", {"data": str(data)}) as server:
        where = ("--url", server.url)
        volumes = json.loads(speedy("volume", "ls", *where, "--json", **variables).stdout)
        assert sum(volume["chunks"] for volume in volumes) == len(PAYLOADS) - 1
        number = next(str(volume["id"]) for volume in volumes if volume["chunks"])
        shown = json.loads(speedy("volume", "show", number, *where, "--json", **variables).stdout)
        assert shown
        told = json.loads(speedy("volume", "dump", "21", *where, "--json", **variables).stdout)
        assert (told["fid"], told["length"]) == (21, len(PAYLOADS[21]))
        done = speedy("volume", "scrub", *where, "--fresh", "--rate", "1GiB", "--json", **variables)
        assert (done.returncode, json.loads(done.stdout)["checked_chunks"]) == (1, len(PAYLOADS) - 1), done.stderr
        done = speedy("volume", "verify", *where, "--rate", "0", **variables)
        assert done.returncode == 1
        assert "fails its checksum" in done.stdout
        HttpChunkStore(server.url, KEY).put(5, PAYLOADS[5], crc32c(PAYLOADS[5]))  # replaces the bad copy
        done = speedy("volume", "verify", number, *where, "--rate", "0", "--json", **variables)
        told = json.loads(done.stdout)
        assert (done.returncode, told["volumes"], told["damage"]) == (0, [int(number)], []), done.stderr
        done = speedy("volume", "compact", number, *where, "--json", **variables)
        assert (done.returncode, json.loads(done.stdout)["volumes_removed"]) == (0, 1), done.stderr
        missing = speedy("volume", "compact", "4711", *where, **variables)
        assert (missing.returncode, "no volume 4711" in missing.stderr) == (1, True)


def test_a_running_chunkserver_is_found_by_its_directory(data: Path, variables: dict[str, str]) -> None:
    where = ("--data", str(data))
    with serving("tests.chunkserver.rooms:build_store", {"data": str(data)}) as server:
        unknown = speedy("volume", "verify", *where, **variables)
        assert (unknown.returncode, "--url" in unknown.stderr) == (1, True)
        for server_id in ("cs-http", "cs-other"):
            member = Member(server_id, server.url, "rw", 1, 1, 1, 0.1)
            table = GroupTable(CLUSTER_ID, 1, (Group(1, 1, (member,)),))
            GroupTableFile(data / "group-table.json").keep(table)
            done = speedy("volume", "verify", *where, "--rate", "0", **variables)
            assert done.returncode == (0 if server_id == "cs-http" else 1), done.stderr
        member = Member("cs-9", server.url, "rw", 1, 1, 1, 0.1)
        GroupTableFile(data / "group-table.json").keep(GroupTable(CLUSTER_ID, 1, (Group(1, 1, (member,)),)))
        (data / "server.json").write_text((data / "server.json").read_text().replace("cs-http", "cs-9"))
        wrong = speedy("volume", "compact", *where, **variables)  # another one has that port by now
        assert (wrong.returncode, "is server cs-http, and not cs-9" in wrong.stderr) == (1, True)


def test_a_running_embedded_server_is_found_by_its_directory(tmp_path: Path) -> None:
    server = EmbeddedServer(tmp_path / "data")
    try:
        server.wait_ready()
        content = os.urandom(3_000_000)
        Pusher(server.url).push_blob("some/thing", content)
        for where in (("--data", str(server.data)), ("--data", str(server.data / "chunks"))):
            volumes = json.loads(speedy("volume", "ls", *where, "--json").stdout)
        number = next(str(volume["id"]) for volume in volumes if volume["chunks"])
        (chunk,) = json.loads(speedy("volume", "show", number, *where, "--json").stdout)
        assert dump(str(chunk["fid"]), *where) == content
        done = speedy("volume", "verify", *where, "--json")
        assert (done.returncode, json.loads(done.stdout)["chunks"]) == (0, 1), done.stderr
        done = speedy("volume", "scrub", *where, "--rate", "1GiB", "--json")
        assert (done.returncode, json.loads(done.stdout)["checked_chunks"]) == (0, 1), done.stderr
        done = speedy("volume", "compact", number, *where, "--json")
        assert (done.returncode, json.loads(done.stdout)["volumes_removed"]) == (0, 1), done.stderr
        volume = next((server.data / "chunks" / "disk").glob("*.dat"))
        at = volume.read_bytes().find(content[:100])
        while at < 0:
            volume = next(path for path in (server.data / "chunks" / "disk").glob("*.dat") if path != volume)
            at = volume.read_bytes().find(content[:100])
        with volume.open("r+b") as file:
            file.seek(at)
            file.write(bytes([content[0] ^ 1]))
        assert speedy("volume", "verify", *where).returncode == 1
        assert "speedy_scrub_damaged 1.0" in requests.get(f"{server.url}/metrics", timeout=30).text
        # Who has neither the directory nor its key gets nothing, and even with it there is no way to change a chunk.
        key = ClusterKey.load(server.data / "cluster.key")
        fid = chunk["fid"]
        for method, path in [("GET", "/v1/volumes"), ("POST", "/v1/operations"), ("GET", f"/v1/chunks/{fid}")]:
            assert requests.request(method, server.url + path, timeout=30).status_code == 404
            foreign = {"Authorization": KEY.sign(method, path)}
            assert requests.request(method, server.url + path, headers=foreign, timeout=30).status_code == 401
        for method, path in [("DELETE", f"/v1/chunks/{fid}"), ("PUT", f"/v1/chunks/{fid}"), ("GET", "/v1/chunks")]:
            signed = {"Authorization": key.sign(method, path)}
            assert requests.request(method, server.url + path, headers=signed, timeout=30).status_code in (404, 405)
        assert json.loads(speedy("volume", "ls", *where, "--json").stdout)[-1]["chunks"] == 1
    finally:
        server.kill()


@pytest.fixture
def much_data(data: Path) -> Path:
    """More than a verification reads at a time."""
    store = LocalChunkStore.open(data, engine_options())
    for fid in range(101, 105):
        payload = os.urandom(4_000_000)
        store.put(fid, payload, crc32c(payload))
    store.close()
    return data


def begun(server: Server, *arguments: str, **variables: str) -> subprocess.Popen[str]:
    """A `speedy volume` that has begun an operation at the server, has asked for it, and does not end by itself."""
    process = subprocess.Popen(
        [sys.executable, "-m", "speedy", "volume", *arguments, "--url", server.url],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(**variables),
    )
    wait_until(lambda: "GET /v1/operations/" in server.log, 60.0, "the first question")
    return process


def test_ctrl_c_stops_a_verification_also_at_the_server(much_data: Path, variables: dict[str, str]) -> None:
    with serving("tests.chunkserver.rooms:build_store", {"data": str(much_data)}) as server:
        process = begun(server, "verify", "--rate", "1000", "--json", **variables)
        another = speedy("volume", "compact", "--url", server.url, **variables)
        assert (another.returncode, "verify is under way" in another.stderr) == (1, True)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=60)
        assert (process.returncode, json.loads(output)["state"]) == (130, "stopped"), errors
        assert speedy("volume", "compact", "--url", server.url, **variables).returncode == 0


def test_a_command_says_that_the_servers_restart_has_lost_its_operation(
    much_data: Path, variables: dict[str, str]
) -> None:
    with serving("tests.chunkserver.rooms:build_store", {"data": str(much_data)}) as server:
        process = begun(server, "verify", "--rate", "1000", **variables)
        os.kill(server.worker_pid, signal.SIGKILL)  # another one takes its place, on the same port
        output, errors = process.communicate(timeout=90)
        assert process.returncode == 1, output
        assert "Start the command again" in errors


def test_what_stands_in_the_way_of_a_running_server_is_said(data: Path, tmp_path: Path) -> None:
    with serving("tests.chunkserver.rooms:build_store", {"data": str(data)}) as server:
        where = ("--url", server.url)
        assert "cluster.key_file" in speedy("volume", "ls", *where).stderr
        ClusterKey.generate().save(tmp_path / "other")
        done = speedy("volume", "verify", *where, SPEEDY_CLUSTER_KEY_FILE=str(tmp_path / "other"))
        assert (done.returncode, "signed with another cluster key" in done.stderr) == (1, True)
        gone = speedy("volume", "ls", "--url", "http://127.0.0.1:1", SPEEDY_CLUSTER_KEY_FILE=str(tmp_path / "other"))
        assert (gone.returncode, "127.0.0.1:1" in gone.stderr) == (1, True)
        assert "Traceback" not in done.stderr + gone.stderr


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["show", "4711"], "no volume 4711"),
        (["dump", "4711"], "no chunk 4711"),
        (["verify", "4711"], "no volume 4711"),
        (["compact", "4711"], "no volume 4711"),
    ],
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
