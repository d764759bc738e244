"""Clients that hold places and move no bytes, or hardly any: they have to leave when others wait, and only then."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest

from tests.registry.client import Client, Reply, client_of, faults_directory, read_reply
from tests.registry.documents import encoded, image, sha256
from tests.registry.test_overload import CONTENT, stalled_download, uploads_in_flight
from tests.wire.serving import serving, wait_until
from wire.settings import RegistrySettings

#: short, so that the tests are; who is slow here is silent for much longer, or moves much less
STALLED_AFTER_S = 1.0
PATIENCE = {
    "stalled_after_s": STALLED_AFTER_S,
    "slow_window_s": 3.0,
    "slow_bytes_per_s": 4096,
    "chunk_bytes": 256 * 1024,
}


@pytest.fixture(scope="module")
def full_size() -> Iterator[Client]:
    """As many places and threads as a registry has without settings."""
    with (
        faults_directory() as directory,
        serving(
            "tests.registry.served:build",
            {"directory": str(directory), **PATIENCE},
            threads=RegistrySettings().threads,
        ) as server,
    ):
        yield client_of(server, directory)


@pytest.fixture(scope="module")
def single() -> Iterator[Client]:
    """One upload, one download and one small request at a time, and nobody waits in line."""
    with single_place() as client:
        yield client


@contextmanager
def single_place() -> Iterator[Client]:
    settings = {"uploads_max": 1, "downloads_max": 1, "requests_max": 1, "waiting_max": 0, "threads": 16, **PATIENCE}
    with (
        faults_directory() as directory,
        serving("tests.registry.served:build", {"directory": str(directory), **settings}, threads=16) as server,
    ):
        yield client_of(server, directory)


def begun_upload(client: Client, location: str, announced: int, first: bytes) -> socket.socket:
    sock = client.socket()
    sock.sendall(f"PATCH {location} HTTP/1.1\r\nHost: x\r\nContent-Length: {announced}\r\n\r\n".encode() + first)
    return sock


def as_told(ask: Callable[[], Reply], timeout_s: float = 30.0) -> Reply:
    """What a client does that is told to come again: it waits for as long as it is told."""
    deadline_s = time.monotonic() + timeout_s
    while True:
        reply = ask()
        if reply.status != 503 or time.monotonic() > deadline_s:
            return reply
        time.sleep(int(reply.headers["Retry-After"]))


@pytest.mark.parametrize("uploads", [60, 300])
def test_stalled_transfers_do_not_keep_others_from_pushing_and_pulling(full_size: Client, uploads: int) -> None:
    client = full_size.again()
    path = f"/v2/a/blobs/{client.push('a', CONTENT)}"
    content = os.urandom(1_000_000)
    with ExitStack() as held:
        locations = [client.open_upload("a") for _ in range(uploads)]
        for location in locations:
            held.enter_context(begun_upload(client, location, 1000, b"first"))
        for _ in range(60):
            sock = held.enter_context(socket.socket())
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.settimeout(30.0)
            sock.connect((client.host, client.port))
            sock.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        wait_until(lambda: uploads_in_flight(client) >= 48, 20.0, "every place taken")
        started_s = time.monotonic()
        location = as_told(lambda: client.send("POST", "/v2/b/blobs/uploads/", b"")).location
        assert as_told(lambda: client.send("PATCH", location, content)).status == 202
        assert as_told(lambda: client.send("PUT", f"{location}?digest={sha256(content)}", b"")).status == 201
        assert as_told(lambda: client.send("GET", f"/v2/b/blobs/{sha256(content)}")).body == content
        assert as_told(lambda: client.send("GET", path)).body == CONTENT
        assert time.monotonic() - started_s < 25.0, "a time-out of 60 s was waited for"
        # What the stalled had sent is theirs still, whether they were let in or not.
        ranges = {client.send("GET", location).headers["Range"] for location in locations}
        assert ranges <= {"0-4", "0-0"}
    client.close()


def test_an_upload_that_stalls_gives_its_place_up_and_keeps_what_it_sent(single: Client) -> None:
    client = single.again()
    stalled, other = client.open_upload("a"), client.open_upload("a")
    with begun_upload(client, stalled, 6, b"abc") as sock:
        wait_until(lambda: uploads_in_flight(client) == 1, 10.0, "the upload")
        assert as_told(lambda: client.send("PATCH", other, b"x")).status == 202
        reply = read_reply(sock)
        assert (reply.status, reply.code(), reply.headers["Connection"]) == (408, "SIZE_INVALID", "close")
        assert "while others waited" in reply.json()["errors"][0]["message"]
    assert client.send("GET", stalled).headers["Range"] == "0-2"
    assert client.send("PUT", f"{stalled}?digest={sha256(b'abcdef')}", b"def").status == 201
    client.close()


def test_an_upload_that_trickles_gives_its_place_up_too(single: Client) -> None:
    client = single.again()
    slow, other = client.open_upload("a"), client.open_upload("a")
    with begun_upload(client, slow, 10_000, b"") as sock, Trickle(lambda: sock.sendall(b"."), 0.1):
        wait_until(lambda: uploads_in_flight(client) == 1, 10.0, "the upload")
        assert as_told(lambda: client.send("PATCH", other, b"x")).status == 202
    kept = int(client.send("GET", slow).headers["Range"].removeprefix("0-")) + 1
    assert kept > 1, "what had trickled in is kept"
    client.close()


def test_a_reader_that_stalls_gives_its_place_up(single: Client) -> None:
    client = single.again()
    path = f"/v2/a/blobs/{client.push('a', CONTENT)}"
    with stalled_download(client, path) as sock:
        assert as_told(lambda: client.send("GET", path)).body == CONTENT
        sock.settimeout(10.0)
        with pytest.raises(ConnectionResetError):
            read_out(sock)
    client.close()


def test_a_reader_that_reads_steadily_keeps_its_place(single: Client) -> None:
    client = single.again()
    path = f"/v2/a/blobs/{client.push('a', CONTENT)}"
    refused: list[int] = []
    with stalled_download(client, path) as sock:
        # 200 KiB per second are few, but well above the least, and no silence: pieces of 4 MiB would show none for 20 s
        for _ in range(25):
            sock.recv(20 * 1024)
            refused.append(client.send("GET", path).status)
            time.sleep(0.1)
        received = len(sock.recv(1 << 20))
        while received < 20_000_000:
            received += len(sock.recv(1 << 20))
    assert set(refused) == {503}
    client.close()


def test_nobody_is_ended_while_nobody_waits() -> None:
    with single_place() as client:  # one that nobody was turned away from: who was is expected to come again
        location = client.open_upload("a")
        path = f"/v2/a/blobs/{client.push('a', CONTENT)}"
        with begun_upload(client, location, 6, b"abc") as up, stalled_download(client, path) as down:
            time.sleep(3 * STALLED_AFTER_S)
            up.sendall(b"def")
            assert read_reply(up).status == 202
            received = len(down.recv(1 << 20))
            while received < len(CONTENT):
                received += len(down.recv(1 << 20))
        client.close()


def test_a_manifest_that_stalls_gives_its_place_up(single: Client) -> None:
    client = single.again()
    config, layer = os.urandom(16), os.urandom(64)
    client.push("a", config)
    client.push("a", layer)
    body = encoded(image(config, layer))
    with ExitStack() as held:
        for number in range(12):  # more than may run and wait
            sock = held.enter_context(client.socket())
            sock.sendall(f"PUT /v2/a/manifests/{number} HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{{".encode())
        wait_until(lambda: uploads_in_flight(client) >= 7, 10.0, "all places taken")
        assert as_told(lambda: client.put_manifest("a", "good", body)).status == 201
    assert client.send("GET", "/v2/a/tags/list").json()["tags"] == ["good"]
    client.close()


def test_a_large_answer_that_is_not_read_holds_a_place_and_gives_it_up(single: Client) -> None:
    """Manifests are sent from memory; a few readers that stall must not take all threads."""
    client = single.again()
    body, _ = client.push_image("a", "large", annotations={"filling": "x" * 4_000_000})
    path = "/v2/a/manifests/large"
    with ExitStack() as held:
        for _ in range(20):  # more than there are threads
            sock = held.enter_context(socket.socket())
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.connect((client.host, client.port))
            sock.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        started_s = time.monotonic()
        assert as_told(lambda: client.send("GET", path)).body == body
        assert time.monotonic() - started_s < 20.0
    client.close()


def read_out(sock: socket.socket) -> None:
    while sock.recv(1 << 20):
        pass


class Trickle:
    """While the block runs, call `move` again and again; its errors end it."""

    def __init__(self, move: Callable[[], object], every_s: float) -> None:
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(move, every_s), daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join(10.0)

    def _run(self, move: Callable[[], object], every_s: float) -> None:
        while not self._stopped.wait(every_s):
            try:
                move()
            except OSError:
                return
