"""The ChunkMaster's routes and its client over several masters."""

from __future__ import annotations

import http.client
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from chunkmaster.client import HttpChunkMaster
from tests.chunkmaster.rooms import KEY, free_port
from tests.contracts.test_chunk_master import beat
from tests.wire.serving import Server, serving, start, stop, wait_until
from wire.errors import Conflict, Unavailable
from wire.values import to_json

PAIR = ("cs-1", "http://10.0.0.1:5400")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("master")
    KEY.save(directory / "key")
    return directory


@pytest.fixture(scope="module")
def server(place: Path) -> Iterator[Server]:
    with serving("tests.chunkmaster.rooms:build_master", arguments(place)) as running:
        yield running


def arguments(place: Path) -> dict[str, Any]:
    return {"database_url": f"sqlite:///{place}/master.db", "key_file": str(place / "key")}


def ask(server: Server, method: str, path: str, body: bytes | None = None, *, signed: bool = True) -> tuple[int, Any]:
    connection = http.client.HTTPConnection(server.host, server.port, timeout=30)
    try:
        headers = {"Authorization": KEY.sign(method, path)} if signed else {}
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        answer = response.read()
        return response.status, json.loads(answer) if answer else None
    finally:
        connection.close()


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/groups"),
        ("GET", "/v1/groups"),
        ("GET", "/v1/groups?known_version=1"),
        ("POST", "/v1/fid-ranges"),
        ("POST", "/v1/fid-ranges/1/close"),
        ("POST", "/v1/heartbeats"),
        ("GET", "/v1/unknown"),
    ],
)
def test_without_the_key_nothing_is_told(server: Server, method: str, path: str) -> None:
    body = json.dumps({"owner": "x", "count": 1}).encode() if method == "POST" else None
    status, answer = ask(server, method, path, body, signed=False)
    assert status == 401
    assert answer["error"]["code"] == "unauthorized"


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics"])
def test_health_and_metrics_are_free(server: Server, path: str) -> None:
    assert server.get(path)[0] == 200


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/groups", b""),
        ("/v1/groups", b"{"),
        ("/v1/groups", b"[" * 100_000),
        ("/v1/groups", b"\xff\xfe"),
        ("/v1/groups", b"[]"),
        ("/v1/groups", b"{}"),
        ("/v1/groups", b'{"members": [["a"]]}'),
        ("/v1/groups", b'{"members": [["a", 1]]}'),
        ("/v1/fid-ranges", b'{"owner": "x"}'),
        ("/v1/fid-ranges", b'{"owner": "x", "count": "1"}'),
        ("/v1/fid-ranges", b'{"owner": "x", "count": true}'),
        ("/v1/fid-ranges", b'{"owner": "x", "count": 1.5}'),
        ("/v1/fid-ranges/x/close", b""),
        ("/v1/heartbeats", b'{"server_id": "a", "url": "http://b:1", "stat": {}}'),
    ],
)
def test_garbage_is_refused_and_changes_nothing(server: Server, path: str, body: bytes) -> None:
    before = ask(server, "GET", "/v1/groups")
    status, answer = ask(server, "POST", path, body)
    assert status == 400, answer
    assert answer["error"]["code"] == "bad_request"
    assert ask(server, "GET", "/v1/groups") == before


def test_an_oversized_body_is_refused(server: Server) -> None:
    status, answer = ask(server, "POST", "/v1/groups", b" " * (1 << 20))
    assert (status, answer["error"]["code"]) == (413, "payload_too_large")


def test_an_unchanged_table_has_no_body(server: Server) -> None:
    _, table = ask(server, "GET", "/v1/groups")
    version = table["version"]
    assert ask(server, "GET", f"/v1/groups?known_version={version}") == (204, None)
    assert ask(server, "GET", f"/v1/groups?known_version={version + 1}")[0] == 200
    assert ask(server, "GET", "/v1/groups?known_version=abc")[0] == 400


def test_a_heartbeat_may_tell_more_than_this_master_knows(server: Server) -> None:
    ask(server, "POST", "/v1/groups", json.dumps({"members": [PAIR]}).encode())
    told = to_json(beat(PAIR)) | {"colour": "green"}
    assert ask(server, "POST", "/v1/heartbeats", json.dumps(told).encode())[0] == 200
    metrics = server.get("/metrics")[1].decode()
    assert 'speedy_members{state="rw"} 1.0' in metrics
    assert "speedy_member_damaged{server=" in metrics
    assert "speedy_member_bad_volumes{server=" in metrics


def test_an_unmigrated_database_is_told_by_readyz_and_used_once_it_is_migrated(tmp_path: Path) -> None:
    KEY.save(tmp_path / "key")
    running = start("tests.chunkmaster.rooms:build_master", {**arguments(tmp_path), "migrate": False}, ready=False)
    try:
        client = HttpChunkMaster([running.url], KEY)
        assert running.get("/healthz")[0] == 200
        status, body = running.get("/readyz")
        assert status == 503
        assert b"speedy migrate" in body
        with pytest.raises(Unavailable, match="speedy migrate"):
            client.reserve_fids("front-1", 1)
        with serving("tests.chunkmaster.rooms:build_master", arguments(tmp_path)):
            wait_until(lambda: running.get("/readyz")[0] == 200, 10, "readiness")
            assert client.reserve_fids("front-1", 1).first == 1
    finally:
        stop(running)


def test_the_next_master_is_asked_when_one_does_not_answer(place: Path, server: Server) -> None:
    dead = f"http://127.0.0.1:{free_port()}"
    client = HttpChunkMaster([dead, server.url], KEY)
    first = client.reserve_fids("front-1", 10)
    assert client.reserve_fids("front-1", 10).first > first.last
    client.add_group((("cs-a", "http://10.0.0.9:1"),))
    with pytest.raises(Conflict):  # an answer, not a failure: nobody else is asked
        client.add_group((("cs-a", "http://10.0.0.9:1"), ("cs-b", "http://10.0.0.9:2")))
    with serving("tests.chunkmaster.rooms:build_master", arguments(place)) as other:
        both = HttpChunkMaster([other.url, server.url], KEY)
        taken = both.reserve_fids("front-1", 10)
        other.stop()
        assert both.reserve_fids("front-1", 10).first > taken.last
        both.close()
    client.close()


def test_a_master_that_takes_requests_and_never_answers_is_passed_over_and_then_avoided(server: Server) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        client = HttpChunkMaster([f"http://127.0.0.1:{silent.getsockname()[1]}", server.url], KEY, read_timeout_s=2.0)
        first = client.reserve_fids("front-1", 10)
        started_s = time.monotonic()
        assert client.reserve_fids("front-1", 10).first > first.last
        assert time.monotonic() - started_s < 1.9
        client.close()


def test_without_any_master_the_failure_names_them_all() -> None:
    urls = [f"http://127.0.0.1:{free_port()}" for _ in range(2)]
    client = HttpChunkMaster(urls, KEY)
    with pytest.raises(Unavailable) as caught:
        client.group_table()
    assert all(url in str(caught.value) for url in urls)
    client.close()
