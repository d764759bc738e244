"""deploy/nginx.conf lets bytes through as they come, and sends the requests of one upload to both registries."""

import hashlib
import http.client
import os
import random
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import pytest

from tests.clients.targets import Target

pytestmark = [
    pytest.mark.clients,
    pytest.mark.timeout(900),
    pytest.mark.parametrize("target", ["cluster", "compose"], indirect=True),
]

_SEEN_S = 30.0
_PIECE_BYTES = 1 << 20


@contextmanager
def _unfinished_patch(target: Target, path: str) -> Iterator[socket.socket]:
    """A PATCH with docker's chunked encoding, whose headers are sent."""
    host, port = target.address.split(":")
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        connection.sendall(
            f"PATCH {path} HTTP/1.1\r\nHost: {target.address}\r\nTransfer-Encoding: chunked\r\n"
            "Content-Type: application/octet-stream\r\n\r\n".encode()
        )
        yield connection


def _send_piece(connection: socket.socket, piece: bytes) -> None:
    connection.sendall(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")


def _call(target: Target, method: str, path: str) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection(target.address, timeout=60)
    connection.request(method, path)
    answer = connection.getresponse()
    answer.read()
    connection.close()
    return answer


def _open_upload(target: Target) -> str:
    answer = _call(target, "POST", f"/v2/{uuid.uuid4().hex[:12]}/early/blobs/uploads/")
    assert answer.status == http.client.ACCEPTED
    return _location(answer)


def _location(answer: http.client.HTTPResponse) -> str:
    parts = urlsplit(answer.headers["Location"])
    return parts.path + (f"?{parts.query}" if parts.query else "")


def _recorded_bytes(target: Target, location: str) -> int:
    """How much of the upload the registry holds by its own word."""
    answer = _call(target, "GET", location)
    assert answer.status == http.client.NO_CONTENT
    last = int(answer.headers["Range"].partition("-")[2])
    return last + 1 if last else 0


def test_bytes_reach_a_registry_before_the_client_has_finished(target: Target) -> None:
    location = _open_upload(target)
    randomness = random.Random(uuid.uuid4().int)  # bytes that the registry has not seen
    digest = hashlib.sha256()
    sent = 0
    with _unfinished_patch(target, location) as connection:

        def send() -> None:
            nonlocal sent
            piece = randomness.randbytes(_PIECE_BYTES)
            digest.update(piece)
            _send_piece(connection, piece)
            sent += len(piece)

        deadline = time.monotonic() + _SEEN_S
        for _ in range(12):  # three chunks of the store
            send()
        while not (recorded := _recorded_bytes(target, location)):
            assert time.monotonic() < deadline, "nothing of an unfinished upload has arrived"
            time.sleep(0.2)
            send()  # as a client would; the whole stays a hundredth of what a proxy's disk would take
        assert recorded <= sent
        connection.sendall(b"0\r\n\r\n")
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        assert answer.status == http.client.ACCEPTED
        assert answer.headers["Range"] == f"0-{sent - 1}"
        location = _location(answer)
    separator = "&" if "?" in location else "?"
    done = _call(target, "PUT", f"{location}{separator}digest=sha256:{digest.hexdigest()}")
    assert done.status == http.client.CREATED


def test_what_only_operators_should_see_is_not_reachable(target: Target) -> None:
    for path in ("/v2/", "/readyz", "/healthz"):  # a busy cluster may be unready for a moment, but says so
        assert _call(target, "GET", path).status in (http.client.OK, http.client.SERVICE_UNAVAILABLE)
    for path in ("/metrics", "/v1/chunks", "/v1/table", "/v2foo", "/"):
        assert _call(target, "GET", path).status == http.client.NOT_FOUND


def test_an_upload_larger_than_a_proxys_default_limit_passes_in_one_put(target: Target) -> None:
    body = os.urandom(3 << 20)  # nginx alone refuses bodies over 1 MiB
    location = _open_upload(target)
    connection = http.client.HTTPConnection(target.address, timeout=60)
    separator = "&" if "?" in location else "?"
    connection.request("PUT", f"{location}{separator}digest=sha256:{hashlib.sha256(body).hexdigest()}", body=body)
    assert connection.getresponse().status == http.client.CREATED
    connection.close()
