"""The MetaServer as a process: key, bad input, several servers, a database that is away, composition from settings."""

from __future__ import annotations

import contextlib
import http.client
import json
import select
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from metaserver import migrations, wsgi
from metaserver.client import HttpMetaStore
from tests.metaserver.stores import cut, digest_of, new_manifest
from tests.wire.serving import Server, serving, start, stop
from wire.auth import ClusterKey
from wire.database import create_engine
from wire.errors import BadRequest, BlobUnknown, ManifestUnknown, Unauthorized, Unavailable, UploadUnknown
from wire.server import RoomApp, StartRefused
from wire.settings import ClusterSettings, DatabaseSettings, Settings

SECRET = "5e" * 32
KEY = ClusterKey(bytes.fromhex(SECRET))


def build(url: str, key_file: str, wait_s: float = 10.0) -> RoomApp:
    return wsgi.build(
        Settings(cluster=ClusterSettings(key_file=Path(key_file)), database=DatabaseSettings(url=url, wait_s=wait_s))
    )


@pytest.fixture(scope="module")
def key_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("key") / "cluster.key"
    KEY.save(path)
    return str(path)


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    url = f"sqlite:///{tmp_path_factory.mktemp('db') / 'meta.db'}"
    engine = create_engine(url)
    migrations.upgrade(engine)
    engine.dispose()
    return url


@pytest.fixture(scope="module")
def server(url: str, key_file: str) -> Iterator[Server]:
    with serving("tests.metaserver.test_http:build", {"url": url, "key_file": key_file}) as server:
        yield server


@pytest.fixture
def dead_url() -> str:
    """Where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


def post(server: Server, path: str, body: bytes) -> tuple[int, dict[str, object]]:
    connection = http.client.HTTPConnection(server.host, server.port, timeout=30)
    try:
        connection.request("POST", path, body, {"Authorization": KEY.sign("POST", path)})
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


def test_without_the_key_nothing_is_told(server: Server) -> None:
    assert server.get("/v1/repositories?after=&limit=10")[0] == 401
    stranger = HttpMetaStore([server.url], ClusterKey(b"x" * 32))
    with pytest.raises(Unauthorized):
        stranger.create_file()
    stranger.close()
    assert server.get("/readyz")[0] == 200


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        b'{"repository": "a"}',
        b'{"repository": 1, "digest": "sha256:aa", "fragments": []}',
        b'{"repository": "a", "digest": "sha256:aa", "fragments": [[0, 1, 2, 3]]}',
        b'{"repository": "a", "digest": "sha256:aa", "fragments": [[0, 1, 2, 3, "4"]]}',
        b'{"repository": "a", "digest": "sha256:aa", "fragments": [[0, 1, 1e99, 3, 4]]}',
        b'{"repository": "a", "digest": "sha256:aa", "fragments": [[0, 1, 99999999999999999999, 3, 4]]}',
        b'{"repository": "a\\u0000", "digest": "sha256:aa", "fragments": []}',
        b'{"repository": "\\ud800", "digest": "sha256:aa", "fragments": []}',
        b"[" * 100_000,
    ],
)
def test_a_body_that_is_none_is_a_bad_request_that_changes_nothing(server: Server, body: bytes) -> None:
    status, answer = post(server, "/v1/blobs", body)
    assert status == 400
    assert answer["error"]["code"] == "bad_request"  # type: ignore[index]
    client = HttpMetaStore([server.url], KEY)
    assert "a" not in client.repositories().names
    client.close()


def test_a_name_that_is_no_unicode_is_a_bad_request_in_a_query_too(server: Server) -> None:
    client = HttpMetaStore([server.url], KEY)
    for name in ("\ud800", "a\0b", ""):
        with pytest.raises(BadRequest):
            client.blob(name, digest_of("x"))
    client.close()


def test_a_server_that_is_down_is_passed_over(server: Server, dead_url: str) -> None:
    client = HttpMetaStore([dead_url, server.url], KEY)
    blob = client.put_blob("failover", digest_of("failover"), cut(5))
    assert client.blob("failover", blob.digest) == blob
    with pytest.raises(BlobUnknown):
        client.blob("failover", digest_of("other"))
    client.check()
    client.close()


def test_a_server_that_stands_still_is_left_long_before_its_share_of_the_time(server: Server) -> None:
    with socket.create_server(("127.0.0.1", 0)) as still:
        client = HttpMetaStore([f"http://127.0.0.1:{still.getsockname()[1]}", server.url], KEY, wait_s=120.0)
        started_s = time.monotonic()
        blob = client.put_blob("still", digest_of("still"), cut(5))
        assert time.monotonic() - started_s < 15.0
        client.delete_blob("still", blob.digest)
        with pytest.raises(BlobUnknown):
            client.delete_blob("still", blob.digest)  # nothing was sent to the one that stands still
        client.close()


def test_a_server_that_takes_requests_and_never_answers_is_passed_over_and_then_avoided(server: Server) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        client = HttpMetaStore([f"http://127.0.0.1:{silent.getsockname()[1]}", server.url], KEY, wait_s=4.0)
        blob = client.put_blob("silent", digest_of("silent"), cut(5))
        started_s = time.monotonic()
        assert client.blob("silent", blob.digest) == blob
        assert time.monotonic() - started_s < 1.9
        client.close()


def test_when_no_server_answers_the_wait_is_bounded(dead_url: str) -> None:
    client = HttpMetaStore([dead_url, dead_url], KEY, wait_s=0.5)
    for call, least_s in ((client.create_file, 0.1), (client.check, 0.0)):
        started_s = time.monotonic()
        with pytest.raises(Unavailable, match="no MetaServer answers"):
            call()
        assert least_s <= time.monotonic() - started_s < 5.0
    client.close()


def test_a_server_that_comes_back_within_the_wait_is_not_noticed(url: str, key_file: str) -> None:
    with serving("tests.metaserver.test_http:build", {"url": url, "key_file": key_file}) as first:
        client = HttpMetaStore([first.url], KEY, wait_s=30.0)
        client.put_blob("before", digest_of("before"), cut(5))
        port = first.port
        first.stop()
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(client.blob, "before", digest_of("before"))
            with serving("tests.metaserver.test_http:build", {"url": url, "key_file": key_file}, port=port):
                assert asked.result(30).size == 5
        client.close()


class LosingAnswers:
    """A line to a server that passes requests on and loses the answer to the first one of each path in `lost`."""

    def __init__(self, server: Server, lost: set[str]) -> None:
        self.lost = lost
        self._server = server
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                line, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(line,), daemon=True).start()

    def _serve(self, line: socket.socket) -> None:
        with line, contextlib.suppress(OSError), socket.create_connection((self._server.host, self._server.port)) as on:
            head = line.recv(64 * 1024)
            on.sendall(head)
            path = head.split(b" ", 2)[1].decode() if head else ""
            lost = path in self.lost
            while True:
                for source in select.select([line, on], [], [], 30.0)[0]:
                    data = source.recv(64 * 1024)
                    if not data:
                        if lost:  # the request has been carried out and answered
                            self.lost.discard(path)
                        return
                    if source is line:
                        on.sendall(data)
                    elif not lost:
                        line.sendall(data)


def test_a_removal_whose_answer_was_lost_is_no_error_when_it_is_asked_again(server: Server, dead_url: str) -> None:
    direct = HttpMetaStore([server.url], KEY)
    blob = direct.put_blob("lost", digest_of("lost"), cut(5))
    manifest = direct.put_manifest("lost", new_manifest("lost", blobs=[blob.digest]), ["v1"])
    direct.create_upload("lost", "u-lost", b"")
    line = LosingAnswers(server, {"/v1/tags/delete", "/v1/manifests/delete", "/v1/blobs/delete", "/v1/uploads/cancel"})
    client = HttpMetaStore([line.url], KEY)
    client.delete_tag("lost", "v1")
    client.delete_manifest("lost", manifest.digest)
    client.delete_blob("lost", blob.digest)
    client.cancel_upload("lost", "u-lost")
    assert line.lost == set()
    # What was not there from the beginning is told as before, also when another server was down.
    with pytest.raises(ManifestUnknown):
        client.delete_tag("lost", "v1")
    failing_over = HttpMetaStore([dead_url, server.url], KEY)
    with pytest.raises(UploadUnknown):
        failing_over.cancel_upload("lost", "u-lost")
    failing_over.close()
    client.close()
    direct.close()
    line.close()


def test_a_database_that_is_away_makes_the_server_not_ready_and_its_answers_unavailable(key_file: str) -> None:
    arguments = {"url": "postgresql://nobody@127.0.0.1:1/none", "key_file": key_file, "wait_s": 0.3}
    server = start("tests.metaserver.test_http:build", arguments, ready=False)
    try:
        status, body = server.get("/readyz")
        assert status == 503
        assert b"does not answer" in body
        assert server.get("/healthz")[0] == 200
        client = HttpMetaStore([server.url], KEY, wait_s=1.0)
        with pytest.raises(Unavailable, match="database does not answer"):
            client.repositories()
        client.close()
    finally:
        stop(server)


def test_a_schema_that_is_missing_is_named_by_readiness(tmp_path: Path, key_file: str) -> None:
    arguments = {"url": f"sqlite:///{tmp_path / 'empty.db'}", "key_file": key_file}
    server = start("tests.metaserver.test_http:build", arguments, ready=False)
    try:
        status, body = server.get("/readyz")
        assert status == 503
        assert b"speedy migrate" in body
    finally:
        stop(server)


def test_settings_that_do_not_suffice_refuse_the_start(key_file: str) -> None:
    with pytest.raises(StartRefused, match="key_file"):
        wsgi.build(Settings(database=DatabaseSettings(url="sqlite:///x.db")))
    with pytest.raises(StartRefused, match=r"database\.url"):
        wsgi.build(Settings(cluster=ClusterSettings(key_file=Path(key_file))))
