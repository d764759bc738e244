"""More clients than a registry lets in: they are told to come again, and health never waits behind them."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, cast

import pytest

from registry_driver.admission import Admission, AdmissionLimits
from registry_driver.app import create_app
from tests.registry.client import Client, Reply, client_of, faults_directory, read_reply
from tests.registry.documents import sha256
from tests.wire.serving import serving, wait_until
from wire.settings import RegistrySettings

CONTENT = os.urandom(32_000_000)
THREADS = 24

#: as many as docker's storage lets an image have
LAYERS_MAX = 127


@pytest.fixture(scope="module")
def narrow() -> Iterator[Client]:
    """A registry that serves two uploads and two downloads at a time, and nobody waits in line."""
    settings = {
        "chunk_bytes": 256 * 1024,
        "uploads_max": 2,
        "downloads_max": 2,
        "requests_max": 2,
        "waiting_max": 0,
        "threads": THREADS,
    }
    with (
        faults_directory() as directory,
        serving("tests.registry.served:build", {"directory": str(directory), **settings}, threads=THREADS) as server,
    ):
        yield client_of(server, directory)


def stalled_upload(client: Client, location: str) -> socket.socket:
    """A client that announces a body and does not send it."""
    sock = client.socket()
    sock.sendall(f"PATCH {location} HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n".encode())
    return sock


def stalled_download(client: Client, path: str) -> socket.socket:
    """A client that asks for a blob and does not read it; the server stands in the middle of its answer."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.settimeout(30.0)
    sock.connect((client.host, client.port))
    sock.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    assert sock.recv(12) == b"HTTP/1.1 200"
    return sock


def test_stalled_uploads_hold_up_uploads_only(narrow: Client) -> None:
    digest = narrow.push("a", b"something to pull")
    locations = [narrow.open_upload("a") for _ in range(3)]
    with ExitStack() as held:
        for location in locations[:2]:
            held.enter_context(stalled_upload(narrow, location))
        wait_until(lambda: uploads_in_flight(narrow) == 2, 10.0, "both uploads")
        reply = narrow.send("PATCH", locations[2], b"x")
        assert (reply.status, reply.code()) == (503, "TOOMANYREQUESTS")
        assert int(reply.headers["Retry-After"]) > 0
        # everything else goes on, what closes an upload too
        assert narrow.send("PUT", f"{narrow.open_upload('a')}?digest={sha256(b'')}", b"").status == 201
        assert narrow.send("GET", "/healthz").status == 200
        assert narrow.send("GET", f"/v2/a/blobs/{digest}").body == b"something to pull"
        assert narrow.send("GET", "/v2/_catalog").status == 200
    wait_until(lambda: narrow.send("PATCH", locations[2], b"x").status == 202, 20.0, "a free place")


def uploads_in_flight(client: Client) -> int:
    """Requests being answered, but for the one that asks."""
    for line in client.send("GET", "/metrics").body.decode().splitlines():
        if line.startswith("speedy_requests_in_flight{"):
            return int(float(line.rpartition(" ")[2])) - 1
    raise AssertionError("no such metric")


def test_readers_that_do_not_read_hold_up_downloads_only(narrow: Client) -> None:
    path = f"/v2/a/blobs/{narrow.push('a', CONTENT)}"
    with ExitStack() as held:
        for _ in range(2):
            held.enter_context(stalled_download(narrow, path))
        reply = narrow.send("GET", path)
        assert (reply.status, reply.code()) == (503, "TOOMANYREQUESTS")
        assert narrow.send("HEAD", path).status == 200
        assert narrow.send("GET", "/healthz").status == 200
        narrow.push("a", b"uploads go on")
    # The slots come back when the readers have gone.
    wait_until(lambda: narrow.send("GET", path).body == CONTENT, 20.0, "a free place")


def test_many_small_requests_at_once_are_all_answered(narrow: Client) -> None:
    digest = narrow.push("a", b"x")
    answers: list[int] = []

    def ask() -> None:
        own = narrow.again()
        for _ in range(20):
            answers.append(own.send("HEAD", f"/v2/a/blobs/{digest}").status)
        own.close()

    askers = [threading.Thread(target=ask) for _ in range(8)]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join(60.0)
    assert len(answers) == 160
    assert set(answers) <= {200, 503}
    assert answers.count(200) > 0


def test_who_asks_for_every_layer_of_the_largest_image_at_once_gets_all_of_them() -> None:
    """containerd does, for as many layers as the image has, and a refusal of one ends its push."""
    layers = {sha256(layer): layer for layer in (os.urandom(2000) for _ in range(LAYERS_MAX))}
    with (
        faults_directory() as directory,
        serving(
            "tests.registry.served:build", {"directory": str(directory)}, threads=RegistrySettings().threads
        ) as server,
    ):
        client = client_of(server, directory)
        head = [request("HEAD", f"/v2/a/blobs/{digest}") for digest in layers]
        assert {reply.status for reply in at_once(client, head)} == {404}
        opened = at_once(client, [request("POST", f"/v2/a/blobs/uploads/?mount={digest}&from=b") for digest in layers])
        assert {reply.status for reply in opened} == {202}
        pushed = at_once(
            client,
            [
                request("PUT", f"{reply.location}?digest={digest}", layer)
                for reply, (digest, layer) in zip(opened, layers.items(), strict=True)
            ],
        )
        assert {reply.status for reply in pushed} == {201}
        pulled = at_once(client, [request("GET", f"/v2/a/blobs/{digest}") for digest in layers])
        assert [reply.body for reply in pulled] == list(layers.values())
        client.close()


def request(method: str, path: str, body: bytes = b"") -> bytes:
    return f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def at_once(client: Client, requests: list[bytes]) -> list[Reply]:
    """The answers to requests that are all sent before the first answer is read, each on a connection of its own."""
    with ExitStack() as held:
        socks = [held.enter_context(client.socket()) for _ in requests]
        for sock, data in zip(socks, requests, strict=True):
            sock.sendall(data)
        return [read_reply(sock, data.partition(b" ")[0].decode()) for sock, data in zip(socks, requests, strict=True)]


def test_a_blob_that_is_pushed_by_many_at_once_is_there_once(narrow: Client) -> None:
    content = os.urandom(1_000_000)
    digest = sha256(content)
    statuses: list[int] = []

    def push() -> None:
        own = narrow.again()
        status, deadline_s = 503, time.monotonic() + 45.0
        while status == 503 and time.monotonic() < deadline_s:
            status = own.send("POST", f"/v2/a/blobs/uploads/?digest={digest}", content).status
        statuses.append(status)
        own.close()

    pushers = [threading.Thread(target=push) for _ in range(4)]
    for pusher in pushers:
        pusher.start()
    for pusher in pushers:
        pusher.join(60.0)
    assert statuses == [201] * 4
    assert narrow.send("GET", f"/v2/a/blobs/{digest}").body == content


def test_a_client_that_sends_nothing_is_given_up() -> None:
    with (
        faults_directory() as directory,
        serving("tests.registry.served:build", {"directory": str(directory), "body_idle_s": 0.3}, threads=8) as server,
    ):
        client = client_of(server, directory)
        location = client.open_upload("a")
        with client.socket() as sock:
            sock.sendall(f"PATCH {location} HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc".encode())
            reply = read_reply(sock)
        assert (reply.status, reply.code(), reply.headers["Connection"]) == (408, "SIZE_INVALID", "close")
        # What it had sent is kept; another one goes on from there.
        assert client.send("GET", location).headers["Range"] == "0-2"
        assert client.send("PUT", f"{location}?digest={sha256(b'abcdef')}", b"def").status == 201
        client.close()


def test_a_request_for_which_there_is_no_memory_is_told_to_come_again() -> None:
    class Registry:
        def __getattr__(self, name: str) -> Any:
            raise MemoryError

    limits = AdmissionLimits.within(8, uploads_max=1, downloads_max=1, requests_max=1, waiting_max=0)
    app = create_app(cast(Any, Registry()), ready=lambda: None, admission=Admission(limits))
    answer = app.test_client().get("/v2/_catalog")
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "2")
    assert answer.get_json()["errors"][0]["code"] == "TOOMANYREQUESTS"
