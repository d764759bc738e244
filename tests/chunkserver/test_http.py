"""The ChunkServer's routes, as bytes on a real connection."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from chunkserver.client import HttpChunkStore
from chunkserver.interface import CHUNK_BYTES_MAX
from native.checksum import crc32c
from tests.chunkmaster.rooms import KEY
from tests.wire.serving import Server, serving
from wire.auth import ClusterKey
from wire.errors import ChunkNotFound, ChunkUnreadable, Unauthorized

PAYLOAD = bytes(range(256)) * 40
FID = 7


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    directory = tmp_path_factory.mktemp("chunks")
    with serving("tests.chunkserver.rooms:build_store", {"data": str(directory)}) as running:
        client = HttpChunkStore(running.url, KEY)
        client.put(FID, PAYLOAD, crc32c(PAYLOAD))
        client.close()
        yield running


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[HttpChunkStore]:
    client = HttpChunkStore(server.url, KEY)
    yield client
    client.close()


def ask(
    server: Server,
    method: str,
    path: str,
    body: bytes | None = None,
    headers: dict[str, str] | None = None,
    *,
    key: ClusterKey | None = KEY,
) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection(server.host, server.port, timeout=30)
    try:
        signed = {"Authorization": key.sign(method, path)} if key else {}
        connection.request(method, path, body, signed | (headers or {}))
        response = connection.getresponse()
        answer = response.read()
        return response.status, {name.lower(): value for name, value in response.getheaders()}, answer
    finally:
        connection.close()


def code_of(answer: bytes) -> str:
    return str(json.loads(answer)["error"]["code"])


ROUTES = [
    ("PUT", f"/v1/chunks/{FID + 1}"),
    ("GET", f"/v1/chunks/{FID}"),
    ("GET", f"/v1/chunks/{FID}/info"),
    ("DELETE", f"/v1/chunks/{FID}"),
    ("GET", "/v1/chunks"),
    ("GET", "/v1/stat"),
    ("GET", "/v1/volumes"),
    ("GET", "/v1/volumes/1/chunks"),
    ("GET", "/v1/digests?first=0&span_log2=8&count=1"),
    ("GET", "/v1/scrub"),
    ("POST", "/v1/scrub"),
    ("POST", "/v1/operations"),
    ("GET", "/v1/operations/one"),
    ("DELETE", "/v1/operations/one"),
    ("GET", "/v1/group-table"),
    ("GET", "/v1/nothing"),
]


@pytest.mark.parametrize(("method", "path"), ROUTES)
@pytest.mark.parametrize("key", [None, ClusterKey(b"the key of some other cluster......")])
def test_without_the_clusters_key_nothing_is_done(
    server: Server, client: HttpChunkStore, method: str, path: str, key: ClusterKey | None
) -> None:
    headers = {"Speedy-Crc32c": f"{crc32c(PAYLOAD):08x}"} if method == "PUT" else {}
    body = PAYLOAD if method == "PUT" else None
    status, _, answer = ask(server, method, path, body, headers, key=key)
    assert (status, code_of(answer)) == (401, "unauthorized")
    assert client.info(FID).length == len(PAYLOAD)
    with pytest.raises(ChunkNotFound):
        client.info(FID + 1)


def test_a_head_without_the_key_is_refused(server: Server) -> None:
    assert ask(server, "HEAD", f"/v1/chunks/{FID}", key=None)[0] == 401


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics"])
def test_health_and_metrics_are_free(server: Server, path: str) -> None:
    assert server.get(path)[0] == 200


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'{"id": "a"}',
        b'{"id": "a", "kind": "format"}',
        b'{"id": "a", "kind": "verify", "volumes": ["1"]}',
        b'{"id": 1, "kind": "verify"}',
        b'{"id": "a/b", "kind": "verify"}',
        b'{"id": "a", "kind": "compaction", "below": 7}',
    ],
)
def test_a_malformed_wish_for_an_operation_begins_nothing(server: Server, body: bytes) -> None:
    status, _, answer = ask(server, "POST", "/v1/operations", body)
    assert (status, code_of(answer)) == (400, "bad_request")
    assert ask(server, "GET", "/v1/operations/a")[0] == 404


def test_every_route_of_the_app_is_in_the_table_above(server: Server) -> None:
    # A route that is added must be tried without the key, too.
    from chunkserver.app import create_app
    from chunkserver.memory import MemoryChunkStore
    from chunkserver.payloads import PayloadMemory
    from chunkserver.table_file import GroupTableFile

    memory = PayloadMemory(CHUNK_BYTES_MAX)
    app = create_app(
        MemoryChunkStore(),
        key=KEY,
        ready=lambda: None,
        tables=GroupTableFile(None),
        incoming=memory,
        outgoing=memory,
    )
    rules = {rule.rule for rule in app.url_map.iter_rules()} - {"/healthz", "/readyz", "/metrics"}
    assert {rule.replace("<fid>", "N").replace("<volume>", "N").replace("<operation_id>", "one") for rule in rules} == {
        path.partition("?")[0].replace(f"/{FID + 1}", "/N").replace(f"/{FID}", "/N").replace("/1/", "/N/")
        for _, path in ROUTES[:-1]
    }


@pytest.mark.parametrize(
    ("asked", "first", "last"),
    [
        ("bytes=0-0", 0, 0),
        ("bytes=10-19", 10, 19),
        ("bytes=10200-", 10200, 10239),
        ("bytes=-5", 10235, 10239),
        ("bytes=-99999", 0, 10239),
        ("bytes=0-10239", 0, 10239),
    ],
)
def test_a_range_is_answered_with_its_bytes_and_their_checksum(
    server: Server, asked: str, first: int, last: int
) -> None:
    status, headers, body = ask(server, "GET", f"/v1/chunks/{FID}", headers={"Range": asked})
    assert status == 206
    assert body == PAYLOAD[first : last + 1]
    assert headers["content-range"] == f"bytes {first}-{last}/10240"
    assert headers["speedy-crc32c"] == f"{crc32c(body):08x}"


@pytest.mark.parametrize("asked", ["bytes=0-1,5-6", "lines=0-1", "bytes=x", "bytes=5-1", "nonsense"])
def test_what_is_no_single_range_gets_the_whole_chunk(server: Server, asked: str) -> None:
    status, headers, body = ask(server, "GET", f"/v1/chunks/{FID}", headers={"Range": asked})
    assert (status, body) == (200, PAYLOAD)
    assert headers["speedy-crc32c"] == f"{crc32c(PAYLOAD):08x}"
    assert "content-range" not in headers


@pytest.mark.parametrize("asked", ["bytes=10240-", "bytes=10240-10241", "bytes=0-10240", "bytes=99999-100000"])
def test_a_range_beyond_the_end_is_refused(server: Server, asked: str) -> None:
    status, _, body = ask(server, "GET", f"/v1/chunks/{FID}", headers={"Range": asked})
    assert (status, code_of(body)) == (416, "range_not_satisfiable")


def test_a_head_tells_length_and_checksum(server: Server) -> None:
    status, headers, body = ask(server, "HEAD", f"/v1/chunks/{FID}")
    assert (status, body) == (200, b"")
    assert headers["content-length"] == "10240"
    assert headers["speedy-crc32c"] == f"{crc32c(PAYLOAD):08x}"
    assert ask(server, "HEAD", "/v1/chunks/424242")[0] == 404


CRC = {"Speedy-Crc32c": f"{crc32c(PAYLOAD):08x}"}


@pytest.mark.parametrize(
    "refused",
    [
        ("/v1/chunks/31", PAYLOAD, {}, 400, "bad_request"),
        ("/v1/chunks/31", PAYLOAD, {"Speedy-Crc32c": "xyz"}, 400, "bad_request"),
        ("/v1/chunks/31", PAYLOAD, {"Speedy-Crc32c": "123"}, 400, "bad_request"),
        ("/v1/chunks/31", PAYLOAD, {"Speedy-Crc32c": "00000000"}, 400, "checksum_mismatch"),
        ("/v1/chunks/0", PAYLOAD, CRC, 400, "bad_request"),
        ("/v1/chunks/-5", PAYLOAD, CRC, 400, "bad_request"),
        ("/v1/chunks/abc", PAYLOAD, CRC, 400, "bad_request"),
        ("/v1/chunks/" + "9" * 20, PAYLOAD, CRC, 400, "bad_request"),
        ("/v1/chunks/" + "9" * 5000, PAYLOAD, CRC, 400, "bad_request"),
        (f"/v1/chunks/{FID}", b"x", {"Speedy-Crc32c": f"{crc32c(b'x'):08x}"}, 409, "chunk_conflict"),
    ],
)
def test_a_bad_put_is_refused_and_stores_nothing(
    server: Server, client: HttpChunkStore, refused: tuple[str, bytes, dict[str, str], int, str]
) -> None:
    path, body, headers, status, code = refused
    found, _, answer = ask(server, "PUT", path, body, headers)
    assert (found, code_of(answer)) == (status, code)
    assert [info.fid for info in client.list_chunks()] == [FID]


@pytest.mark.parametrize(
    "path", ["/v1/chunks?after=x", "/v1/chunks?limit=0", "/v1/chunks?limit=-1", "/v1/chunks?limit=10001"]
)
def test_a_bad_listing_is_refused(server: Server, path: str) -> None:
    status, _, answer = ask(server, "GET", path)
    assert (status, code_of(answer)) == (400, "bad_request")


def raw(server: Server, head: str, body: bytes, *, end: bool) -> bytes:
    """Send bytes as they are; what the server says until it closes, or one answer."""
    with socket.create_connection((server.host, server.port), timeout=20) as connection:
        connection.sendall(head.encode() + b"\r\n\r\n" + body)
        if end:
            connection.shutdown(socket.SHUT_WR)
        answer = b""
        while b"}}" not in answer:
            piece = connection.recv(65536)
            if not piece:
                break
            answer += piece
        return answer


def put_head(fid: int, *headers: str) -> str:
    path = f"/v1/chunks/{fid}"
    return "\r\n".join([f"PUT {path} HTTP/1.1", "Host: x", f"Authorization: {KEY.sign('PUT', path)}", *headers])


def test_a_body_shorter_than_announced_stores_nothing(server: Server, client: HttpChunkStore) -> None:
    head = put_head(32, "Content-Length: 20000", f"Speedy-Crc32c: {crc32c(PAYLOAD):08x}")
    answer = raw(server, head, PAYLOAD, end=True)
    assert b" 400 " in answer.split(b"\r\n")[0]
    assert b"truncated_body" in answer
    with pytest.raises(ChunkNotFound):
        client.info(32)


def test_a_chunk_that_is_too_large_is_refused_before_its_body(server: Server) -> None:
    head = put_head(33, f"Content-Length: {CHUNK_BYTES_MAX + 1}", "Speedy-Crc32c: 00000000")
    answer = raw(server, head, b"", end=False)  # no byte of the body is sent
    assert b" 413 " in answer.split(b"\r\n")[0]
    assert b"payload_too_large" in answer


def test_a_body_of_unknown_length_is_refused(server: Server) -> None:
    head = put_head(34, "Transfer-Encoding: chunked", f"Speedy-Crc32c: {crc32c(b'abc'):08x}")
    answer = raw(server, head, b"3\r\nabc\r\n0\r\n\r\n", end=False)
    assert b" 400 " in answer.split(b"\r\n")[0]
    assert b"Content-Length" in answer


def test_no_table_is_handed_out_before_a_master_sent_one(server: Server) -> None:
    status, _, answer = ask(server, "GET", "/v1/group-table")
    assert (status, code_of(answer)) == (404, "not_found")


def test_space_and_state_are_metrics(server: Server) -> None:
    text = server.get("/metrics")[1].decode()
    assert "speedy_chunks 1.0" in text
    assert 'speedy_chunkserver_state{state="rw"} 1.0' in text
    assert 'speedy_chunk_bytes{kind="free"}' in text
    assert 'speedy_compaction_bytes_total{kind="given_back"} 0.0' in text


def test_the_client_raises_what_the_server_refuses(server: Server) -> None:
    stranger: Any = HttpChunkStore(server.url, ClusterKey(b"the key of some other cluster......"))
    with pytest.raises(Unauthorized):
        stranger.put(40, b"x", crc32c(b"x"))
    with pytest.raises(Unauthorized):
        stranger.read_into(FID, 0, bytearray(1))
    stranger.close()


class _Corrupting(BaseHTTPRequestHandler):
    """A way to the server on which a bit flips: the checksum is that of what was sent, the bytes are not."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        body = PAYLOAD[:100]
        self.send_response(206)
        self.send_header("Content-Length", "100")
        self.send_header("Speedy-Crc32c", f"{crc32c(body):08x}")
        self.end_headers()
        self.wfile.write(bytes([body[0] ^ 4]) + body[1:])

    def log_message(self, *_: object) -> None:
        pass


def test_bytes_that_change_on_the_way_are_not_taken() -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Corrupting) as way:
        thread = threading.Thread(target=way.serve_forever, args=(0.02,))
        thread.start()
        client = HttpChunkStore(f"http://127.0.0.1:{way.server_port}", KEY)
        try:
            with pytest.raises(ChunkUnreadable):
                client.read_into(FID, 0, bytearray(100))
        finally:
            client.close()
            way.shutdown()
            thread.join(10)


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/v1/volumes/one/chunks", None),
        ("GET", "/v1/volumes/1/chunks?limit=x", None),
        ("GET", "/v1/digests", None),
        ("GET", "/v1/digests?first=0&span_log2=8", None),
        ("GET", "/v1/digests?first=1&span_log2=8&count=1", None),
        ("POST", "/v1/scrub", b""),
        ("POST", "/v1/scrub", b"{}"),
        ("POST", "/v1/scrub", b'{"action": "explode"}'),
        ("POST", "/v1/scrub", b'{"action": "start", "bytes_s": "fast"}'),
        ("POST", "/v1/scrub", b'{"action": "start", "bytes_s": 0}'),
    ],
)
def test_what_makes_no_sense_to_upkeep_is_refused(server: Server, method: str, path: str, body: bytes | None) -> None:
    status, _, answer = ask(server, method, path, body)
    assert status == 400, answer


def test_the_metrics_tell_of_the_scrub(server: Server) -> None:
    status, body = server.get("/metrics")
    assert status == 200
    text = body.decode()
    for name in (
        'speedy_volumes{kind="quarantined"} 0.0',
        "speedy_scrub_rounds_total",
        "speedy_scrub_damaged 0.0",
        "speedy_scrub_running",
        "speedy_scrub_round",
    ):
        assert name in text
