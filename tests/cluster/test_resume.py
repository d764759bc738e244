"""Uploads through two registries behind a balancer, with kill -9 of whichever serves them: any front end goes on where
the rows say, and no byte that was answered is sent again.

SPEEDY_UPLOAD_KILLS makes more kills, SPEEDY_LAYER_MIB larger layers; the seed is printed, SPEEDY_SEED repeats it.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import random
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests

from speedy.cluster import LocalCluster
from speedy.processes import is_alive
from tests.cluster.balancer import Balancer
from tests.cluster.conftest import CHUNK_BYTES
from tests.cluster.resuming import Layer, ResumingUpload
from tests.speedy.pushing import TIMEOUT_S, Pusher, digest_of, expect

MIB = 1 << 20
KILLS_PER_UPLOAD = 10
KILLS = int(os.environ.get("SPEEDY_UPLOAD_KILLS", "50"))
#: of the streams and of what goes in pieces; 0: what CI has time for
LAYER_BYTES = int(os.environ.get("SPEEDY_LAYER_MIB", "0")) * MIB
#: In turn: a stream that is longer than what may be sent again, and pieces as clients that resume send them.
UPLOADS = ((LAYER_BYTES or 128 * MIB, None), (LAYER_BYTES or 40 * MIB, 5 * MIB), (24 * MIB + 17, 1 * MIB))
REPOSITORY = "resume/layers"

#: what may be sent again of a request that was not answered: a recording interval and the window of chunks in flight,
#: and what lies in sockets and the balancer
SENT_AGAIN_MAX = 64 * MIB + 4 * CHUNK_BYTES + 8 * MIB


class Killer:
    """Kills the front end that serves when the upload comes to one of `places`, and starts it again meanwhile."""

    def __init__(self, cluster: LocalCluster, balancer: Balancer, choose: random.Random, places: list[int]) -> None:
        self._cluster = cluster
        self._balancer = balancer
        self._choose = choose
        self._places = sorted(places)
        self._names = {registry.url: registry.name for registry in cluster.plan().of("registry")}
        self._starts = ThreadPoolExecutor(1)
        self._starting: set[str] = set()
        self._timers: list[threading.Timer] = []
        self.errors: list[Exception] = []
        self.kills = 0

    def reached(self, position: int) -> None:
        while self._places and self._places[0] <= position:
            self._places.pop(0)
            whole = self._choose.random() < 0.3  # else its worker, which its parent replaces
            # Some at this very byte, some while the bytes after it are received, stored, recorded or answered.
            delay_s = self._choose.choice([0.0, 0.0, 0.01, 0.05, 0.2])
            if delay_s:
                self._timers.append(threading.Timer(delay_s, self._kill, (whole,)))
                self._timers[-1].start()
            else:
                self._kill(whole)

    def close(self) -> None:
        for timer in self._timers:
            timer.join()
        self._starts.shutdown(wait=True)
        if self.errors:
            raise self.errors[0]

    def _kill(self, whole: bool) -> None:
        try:
            name = self._names[self._balancer.serving]
            if name in self._starting:
                return  # killed a moment ago and not up yet: its client waits for the other one
            identity = self._cluster.identity(name)
            assert identity is not None, f"{name} died by itself"
            if whole:
                self._starting.add(name)
                os.killpg(identity.pid, signal.SIGKILL)
                while is_alive(identity):
                    time.sleep(0.005)
                self._starts.submit(self._start, name)
            else:
                for worker in Path(f"/proc/{identity.pid}/task/{identity.pid}/children").read_text().split():
                    os.kill(int(worker), signal.SIGKILL)
            self.kills += 1
        except Exception as error:  # noqa: BLE001 - shown by the test's own thread
            self.errors.append(error)

    def _start(self, name: str) -> None:
        try:
            self._cluster.start(name, timeout_s=120.0)
            self._starting.discard(name)
        except Exception as error:  # noqa: BLE001 - shown by the test's own thread
            self.errors.append(error)


@pytest.fixture
def balancer(cluster: LocalCluster) -> Iterator[Balancer]:
    cluster.up(timeout_s=120.0)
    balancer = Balancer([registry.url for registry in cluster.plan().of("registry")])
    yield balancer
    balancer.close()
    cluster.up(timeout_s=120.0)


@contextmanager
def random_layer(choose: random.Random, size: int) -> Iterator[Layer]:
    """Its bytes are a file's: those of a layer of GiB are not for memory."""
    with tempfile.TemporaryFile(prefix="speedy-layer-") as file:
        sha = hashlib.sha256()
        for start in range(0, size, MIB):
            piece = choose.randbytes(min(MIB, size - start))
            file.write(piece)
            sha.update(piece)
        file.flush()
        with mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) as data:
            yield Layer(data, f"sha256:{sha.hexdigest()}")


def pulled_digest(url: str, digest: str) -> str:
    """Of the bytes that the registry gives out for `digest`."""
    sha = hashlib.sha256()
    with requests.get(f"{url}/v2/{REPOSITORY}/blobs/{digest}", stream=True, timeout=TIMEOUT_S) as answer:
        for piece in expect(answer, 200).iter_content(MIB):
            sha.update(piece)
    return f"sha256:{sha.hexdigest()}"


def test_uploads_go_on_through_fifty_kills_of_whoever_serves_them(cluster: LocalCluster, balancer: Balancer) -> None:
    seed = int(os.environ.get("SPEEDY_SEED", time.time_ns() % 10**9))
    print(f"SPEEDY_SEED={seed}")
    choose = random.Random(seed)
    sent_again: list[int] = []
    kills = turn = 0
    while kills < KILLS:
        size, piece = UPLOADS[turn % len(UPLOADS)]
        places = [choose.randrange(size) for _ in range(KILLS_PER_UPLOAD - 1)] + [size]
        killer = Killer(cluster, balancer, choose, places)
        with random_layer(choose, size) as layer:
            upload = ResumingUpload(balancer.url, REPOSITORY, layer, piece, killer.reached)
            try:
                upload.run()
            finally:
                killer.close()
        sent_again += upload.sent_again
        kills += killer.kills
        turn += 1
        again = f"{sum(upload.sent_again):,} (at most {max(upload.sent_again, default=0):,} of one request)"
        print(f"upload {turn}: {size:,} bytes, pieces of {piece}, {killer.kills} kills, bytes sent again: {again}")
        assert max(upload.sent_again, default=0) <= SENT_AGAIN_MAX
        assert pulled_digest(balancer.url, layer.digest) == layer.digest
        # Its space comes back meanwhile: many large layers need no large disk.
        expect(Pusher(balancer.url).send("DELETE", f"/v2/{REPOSITORY}/blobs/{layer.digest}"), 202)
    assert turn >= KILLS // KILLS_PER_UPLOAD
    # A stream is met by every kill; of small pieces many kills come after the answer.
    assert len(sent_again) >= kills // 4, "the kills met no request"


def test_of_two_clients_in_one_session_one_wins_and_the_other_learns_where_it_stands(
    cluster: LocalCluster, balancer: Balancer
) -> None:
    registries = [registry.url for registry in cluster.plan().of("registry")]
    location = expect(Pusher(balancer.url).send("POST", "/v2/resume/two/blobs/uploads/"), 202).headers["Location"]
    contents = [bytes([number]) * (3 * CHUNK_BYTES + number) for number in (1, 2)]
    begun = threading.Barrier(2)

    def body(content: bytes) -> Iterator[bytes]:
        yield content[:CHUNK_BYTES]
        begun.wait(60)  # both requests are being served, each by another registry, from offset 0
        yield content[CHUNK_BYTES:]

    with ThreadPoolExecutor(2) as clients:
        running = [
            clients.submit(Pusher(url).send, "PATCH", location, body(content), Content_Range=f"0-{len(content) - 1}")
            for url, content in zip(registries, contents, strict=True)
        ]
        answers = [each.result(120) for each in running]
    assert sorted(answer.status_code for answer in answers) == [202, 416]
    (won, content) = next(
        (answer, content) for answer, content in zip(answers, contents, strict=True) if answer.status_code == 202
    )
    lost = next(answer for answer in answers if answer.status_code == 416)
    assert won.headers["Range"] == lost.headers["Range"] == f"0-{len(content) - 1}"
    assert won.headers["Location"] == lost.headers["Location"] == location
    assert lost.json()["errors"][0]["code"] == "BLOB_UPLOAD_INVALID"
    expect(Pusher(balancer.url).send("PUT", f"{location}?digest={digest_of(content)}"), 201)
    assert Pusher(balancer.url).pull_blob("resume/two", digest_of(content)) == content
