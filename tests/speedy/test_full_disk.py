"""`speedy serve` on a file system that is full: refusals in the API's form, nothing lost, and going on by itself."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests

from tests.disks import FILLINGS_MAX, MIB, small_disk, take_all
from tests.ports import free_port
from tests.speedy.embedded import EmbeddedServer
from tests.speedy.pushing import MANIFEST_TYPE, TIMEOUT_S, Pusher, digest_of, expect
from tests.wire.serving import wait_until
from wire.space_reserve import RESERVE_BYTES, RESERVE_FILE

DISK_BYTES = 256 * MIB
BLOB_BYTES = 12 * MIB + 345
REPOSITORY = "full/disk"

#: with 12 MiB each, more than the disk has room for
BLOBS_MAX = 30

#: in which deleted content has become room for new content
RECOVERY_TIMEOUT_S = 60.0

PUSHERS = 2


@pytest.fixture(params=["ext4", "tmpfs"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A small file system of its own, at the place of the data directory."""
    with small_disk(request.param, DISK_BYTES, tmp_path / "data") as place:
        yield place


@pytest.fixture
def serve(disk: Path) -> Iterator[Callable[..., EmbeddedServer]]:
    servers: list[EmbeddedServer] = []

    def begin(listen: str = "127.0.0.1:0", **variables: str) -> EmbeddedServer:
        named = {
            "SPEEDY_REGISTRY_RECLAIM_AFTER_S": "1s",
            "SPEEDY_CHUNKSERVER_VOLUME_BYTES_FIRST": "16MiB",
            "SPEEDY_CHUNKSERVER_VOLUME_BYTES_MAX": "16MiB",
        }
        servers.append(EmbeddedServer(disk, listen, **{**named, **variables}))
        servers[-1].wait_ready()
        return servers[-1]

    yield begin
    for server in servers:
        server.kill()


def test_a_disk_fills_up_is_cleared_and_fills_again(serve: Callable[..., EmbeddedServer], tmp_path: Path) -> None:
    server = serve()
    worker = server.worker_pid()
    pusher = Pusher(server.url)
    # Begun while there is room: on a full disk that is refused as well.
    location = expect(pusher.send("POST", f"/v2/{REPOSITORY}/blobs/uploads/"), 202).headers["Location"]
    kept = _push_until_refused(pusher)
    assert len(kept) >= 5

    # Every way of sending bytes is refused in the same form, wherever in the body that is noticed.
    _refused(_post_whole(pusher, os.urandom(BLOB_BYTES)))
    _refused(pusher.send("PATCH", location, _pieces(os.urandom(BLOB_BYTES))))
    _refused(pusher.send("PATCH", location, os.urandom(BLOB_BYTES)))
    # What does not fit in any way: the refusal must reach a client that is far from having sent everything.
    with (tmp_path / "large").open("wb+") as large:
        large.truncate(2 * DISK_BYTES)
        _refused(pusher.send("PATCH", location, large))

    for digest in kept:
        pusher.pull_blob(REPOSITORY, digest)
    gone = kept[::2]
    for digest in gone:
        expect(pusher.send("DELETE", f"/v2/{REPOSITORY}/blobs/{digest}"), 202)
        expect(pusher.send("HEAD", f"/v2/{REPOSITORY}/blobs/{digest}"), 404)
    # Room comes back piece by piece.
    again = [_push_when_there_is_room(pusher) for _ in range(len(gone) - 2)]
    for digest in (*kept[1::2], *again):
        pusher.pull_blob(REPOSITORY, digest)
    _push_until_refused(pusher)
    _is_unharmed(server, worker)


def test_without_a_byte_left_metadata_is_refused_too_pulls_go_on_and_so_does_everything_when_there_is_space(
    serve: Callable[..., EmbeddedServer], disk: Path
) -> None:
    server = serve(SPEEDY_CHUNKSERVER_RESERVE_BYTES="0")
    worker = server.worker_pid()
    pusher = Pusher(server.url)
    layers = [os.urandom(BLOB_BYTES), os.urandom(1000)]
    image = pusher.push_image(REPOSITORY, "v1", layers)
    manifest = pusher.send("GET", f"/v2/{REPOSITORY}/manifests/v1", Accept=MANIFEST_TYPE).content
    location = expect(pusher.send("POST", f"/v2/{REPOSITORY}/blobs/uploads/"), 202).headers["Location"]

    ballast = disk / "of-somebody-else"
    take_all(ballast)
    taken: set[str] = set()
    refusals = 0
    for number in range(400):
        # Small writes until what the database's files have room for is used up as well.
        take_all(ballast)
        data = f"{number}".encode() * 3000
        answer = _post_whole(pusher, data)
        if answer.status_code == 201:
            taken.add(digest_of(data))
        else:
            _refused(answer)
            refusals += 1
        if refusals >= 5:
            break
    assert refusals >= 5
    # What the store took ahead is used up first.
    _until_refused(lambda: pusher.send("PATCH", location, os.urandom(BLOB_BYTES)), ballast)
    for _ in range(300):
        take_all(ballast)
        answer = pusher.send("PUT", f"/v2/{REPOSITORY}/manifests/v2", manifest, Content_Type=MANIFEST_TYPE)
        if answer.status_code != 201:
            break
    _refused(answer)
    assert pusher.pull_image(REPOSITORY, "v1") == image
    for digest in taken:
        pusher.pull_blob(REPOSITORY, digest)
    assert requests.get(f"{server.url}/healthz", timeout=TIMEOUT_S).status_code == 200

    ballast.unlink()
    taken.add(_push_when_there_is_room(pusher))
    pusher.push_image(REPOSITORY, "v3", layers)
    assert pusher.pull_image(REPOSITORY, "v1") == image
    for digest in taken:
        pusher.pull_blob(REPOSITORY, digest)
    expect(pusher.send("DELETE", f"/v2/{REPOSITORY}/manifests/{image}"), 202)
    _is_unharmed(server, worker)

    take_all(ballast)
    assert server.stop() == 0
    take_all(ballast)
    again = serve(f"127.0.0.1:{free_port()}", SPEEDY_CHUNKSERVER_RESERVE_BYTES="0")
    worker = again.worker_pid()
    pusher = Pusher(again.url)
    _refused(pusher.send("POST", f"/v2/{REPOSITORY}/blobs/uploads/"))
    _refused(pusher.send("PUT", f"/v2/{REPOSITORY}/manifests/v4", manifest, Content_Type=MANIFEST_TYPE))
    told = expect(pusher.send("GET", "/readyz"), 200).json()
    assert (told["writes"], told["reason"]["code"]) == ("refused", "storage_full")
    for digest in taken:
        pusher.pull_blob(REPOSITORY, digest)
    _until_refused(lambda: _post_whole(pusher, os.urandom(BLOB_BYTES)), ballast)
    ballast.unlink()
    _push_when_there_is_room(pusher)
    wait_until(
        lambda: expect(pusher.send("GET", "/readyz"), 200).json()["writes"] == "accepted", TIMEOUT_S, "writes again"
    )
    _is_unharmed(again, worker)


def test_on_a_disk_that_others_filled_a_delete_is_possible_and_makes_room(
    serve: Callable[..., EmbeddedServer], disk: Path
) -> None:
    server = serve()
    pusher = Pusher(server.url)
    data = [os.urandom(BLOB_BYTES) for _ in range(3)]
    for blob in data:
        expect(_post_whole(pusher, blob), 201)
    _take_all_but_the_reserve(disk)
    # Once it is the server's turn: until it has looked there may be no byte. A name goes before its blocks do.
    wait_until(lambda: _free_bytes(disk) >= RESERVE_BYTES // 2, TIMEOUT_S, "the reserve to be given up")
    for blob in data[1:]:
        expect(pusher.send("DELETE", f"/v2/{REPOSITORY}/blobs/{digest_of(blob)}"), 202)
    pusher.pull_blob(REPOSITORY, digest_of(data[0]))
    wait_until(lambda: _free_bytes(disk) > BLOB_BYTES, RECOVERY_TIMEOUT_S, "deleted content to be free space")
    _is_unharmed(server, server.worker_pid())


@pytest.mark.parametrize(("size_bytes", "percent"), [(256 * MIB, 70), (700 * MIB, 85)])
def test_nearly_all_of_a_small_disk_is_used_by_several_pushers_with_the_default_settings(
    tmp_path: Path, size_bytes: int, percent: int
) -> None:
    with small_disk("tmpfs", size_bytes, tmp_path / "data") as disk:
        server = EmbeddedServer(disk)
        try:
            server.wait_ready()
            pusher = Pusher(server.url)
            refusals: list[requests.Response] = []
            taken = _push_until_refused(pusher, pushers=4, blobs_max=size_bytes // BLOB_BYTES, refusals=refusals)
            assert len(taken) * BLOB_BYTES >= size_bytes * percent // 100
            for answer in refusals:
                assert answer.status_code == 507, answer.text
                assert "chunkserver.reserve_bytes" in answer.text
                assert " free" in answer.text
        finally:
            server.kill()


def _take_all_but_the_reserve(disk: Path) -> None:
    ballast = disk / "of-somebody-else"
    for _ in range(FILLINGS_MAX):
        wait_until((disk / RESERVE_FILE).exists, TIMEOUT_S, "a reserve")
        take_all(ballast)
        if (disk / RESERVE_FILE).exists():
            return
        ballast.unlink()  # the server gave the reserve up before the ballast was whole, and that took it as well
    raise AssertionError(f"the server was {FILLINGS_MAX} times faster than the ballast")


def _free_bytes(disk: Path) -> int:
    space = os.statvfs(disk)
    return space.f_bavail * space.f_frsize


def _push_until_refused(
    pusher: Pusher,
    *,
    pushers: int = PUSHERS,
    blobs_max: int = BLOBS_MAX,
    refusals: list[requests.Response] | None = None,
) -> list[str]:
    """Blobs in streamed and whole requests by turns, several at once; the digests of those that were taken."""
    taken: list[str] = []
    refusals = [] if refusals is None else refusals

    def push() -> None:
        for number in range(blobs_max):
            data = os.urandom(BLOB_BYTES)
            answer = _post_whole(pusher, data) if number % 2 else _stream(pusher, data)
            if answer.status_code != 201:
                refusals.append(answer)
                return
            taken.append(digest_of(data))

    with ThreadPoolExecutor(pushers) as threads:
        for task in [threads.submit(push) for _ in range(pushers)]:
            task.result()
    for answer in refusals:
        _refused(answer)
    assert len(refusals) == pushers, f"{len(taken)} blobs found room"
    return taken


def _until_refused(send: Callable[[], requests.Response], ballast: Path) -> None:
    """Somebody else takes what becomes free."""
    for _ in range(BLOBS_MAX):
        take_all(ballast)
        answer = send()
        if answer.status_code not in (201, 202):
            break
    _refused(answer)


def _stream(pusher: Pusher, data: bytes) -> requests.Response:
    """The answer to the first of three requests that was not a success, else to the last one."""
    answer = pusher.send("POST", f"/v2/{REPOSITORY}/blobs/uploads/")
    if answer.status_code == 202:
        answer = pusher.send("PATCH", answer.headers["Location"], _pieces(data))
    if answer.status_code == 202:
        answer = pusher.send("PUT", f"{answer.headers['Location']}?digest={digest_of(data)}")
    return answer


def _push_when_there_is_room(pusher: Pusher) -> str:
    """Like a client that tries again; the digest of the blob."""
    data = os.urandom(BLOB_BYTES)
    deadline_s = time.monotonic() + RECOVERY_TIMEOUT_S
    while (answer := _post_whole(pusher, data)).status_code != 201:
        _refused(answer)
        assert time.monotonic() < deadline_s, "deleted content did not become room for new content"
        time.sleep(0.2)
    return digest_of(data)


def _post_whole(pusher: Pusher, data: bytes) -> requests.Response:
    return pusher.send("POST", f"/v2/{REPOSITORY}/blobs/uploads/?digest={digest_of(data)}", data)


def _pieces(data: bytes) -> Iterator[bytes]:
    return (data[start : start + 100_000] for start in range(0, len(data), 100_000))


def _refused(answer: requests.Response) -> None:
    """507, with an error of the API's form."""
    assert answer.status_code == 507, f"{answer.status_code} {answer.text[:500]}"
    assert answer.headers["Content-Type"].startswith("application/json")
    errors = json.loads(answer.content)["errors"]
    assert errors
    assert all(error["code"] and error["message"] for error in errors)


def _is_unharmed(server: EmbeddedServer, worker: int | None) -> None:
    assert server.worker_pid() == worker
    log = server.log_text()
    assert "Traceback" not in log, log[log.index("Traceback") - 500 :][:5000]
