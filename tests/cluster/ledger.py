"""Clients that push without end, and a ledger of what was acknowledged, kept outside of what is being killed."""

from __future__ import annotations

import hashlib
import http.client
import json
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import requests

from tests.speedy.pushing import MANIFEST_TYPE, Pusher, digest_of

KIB = 1024


def bytes_of(seed: int, size: int) -> bytes:
    """The same bytes for the same seed."""
    return random.Random(seed).randbytes(size)


@dataclass(frozen=True, slots=True)
class Entry:
    digest: str
    size: int


@dataclass(slots=True)
class Ledger:
    """`blobs`, `tags` (tag -> manifest digest): a 201 was seen for them. `attempted`: every blob that was begun."""

    blobs: dict[str, Entry] = field(default_factory=dict)
    attempted: dict[str, int] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)


class Clients:
    """`count` threads that push images to `url()` until stopped. Failures are expected: so a kill looks to a client."""

    def __init__(self, repository: str, url: Callable[[], str], ledger: Ledger, *, count: int = 3) -> None:
        self._repository = repository
        self._url = url
        self._ledger = ledger
        self._stop = threading.Event()
        self.failures: list[str] = []
        self._threads = [threading.Thread(target=self._push_on, args=(n,), daemon=True) for n in range(count)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(90)
            assert not thread.is_alive(), "a client hangs"

    def _push_on(self, number: int) -> None:
        choose = random.Random()
        while not self._stop.is_set():
            try:
                self._push_image(choose)
            except (requests.RequestException, AssertionError, OSError) as exc:
                self.failures.append(f"{time.monotonic():.2f} {type(exc).__name__}: {exc}"[:600])
                self._stop.wait(0.05)

    def _push_image(self, choose: random.Random) -> None:
        pusher = Pusher(self._url())
        digests = [self._push_blob(pusher, choose) for _ in range(2)]
        manifest = json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": MANIFEST_TYPE,
                "config": {"mediaType": "application/vnd.oci.image.config.v1+json", **digests[0]},
                "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar", **digests[1]}],
            }
        ).encode()
        tag = f"t-{choose.getrandbits(64):x}"
        pusher.push_manifest(self._repository, tag, manifest)
        self._ledger.tags[tag] = digest_of(manifest)

    def _push_blob(self, pusher: Pusher, choose: random.Random) -> dict[str, object]:
        size = choose.choice([17, 4 * KIB, 300 * KIB, 1500 * KIB])
        data = bytes_of(choose.getrandbits(64), size)
        digest = digest_of(data)
        self._ledger.attempted[digest] = size
        pusher.push_blob(self._repository, data, pieces=choose.choice([1, 2]))
        self._ledger.blobs[digest] = Entry(digest, size)
        return {"digest": digest, "size": size}


def verify(url: str, repository: str, ledger: Ledger, *, blobs: list[Entry] | None = None) -> None:
    """Everything acknowledged is there bit-exact; what was not is whole or absent; every listed tag can be pulled."""
    pusher = Pusher(url)
    for entry in list(ledger.blobs.values()) if blobs is None else blobs:
        assert len(pusher.pull_blob(repository, entry.digest)) == entry.size
    for digest in set(ledger.attempted) - set(ledger.blobs):
        answer = pusher.send("GET", f"/v2/{repository}/blobs/{digest}")
        assert answer.status_code in (200, 404), answer.text
        if answer.status_code == 200:
            assert f"sha256:{hashlib.sha256(answer.content).hexdigest()}" == digest
    listed = pusher.send("GET", f"/v2/{repository}/tags/list?n=10000").json().get("tags") or []
    assert set(ledger.tags) <= set(listed)
    for tag in listed:
        digest = pusher.pull_image(repository, tag)
        assert ledger.tags.get(tag, digest) == digest


class OpenUpload:
    """An upload in the middle of its second PATCH. The first was answered: its `durable` bytes are not sent again."""

    def __init__(self, url: str, repository: str, data: bytes, durable: int, sent: int) -> None:
        self.data, self.durable = data, durable
        opened = requests.post(f"{url}/v2/{repository}/blobs/uploads/", timeout=30)
        assert opened.status_code == 202, opened.text
        answered = requests.patch(f"{url}{opened.headers['Location']}", data=data[:durable], timeout=60)
        assert answered.status_code == 202, answered.text
        self.location = answered.headers["Location"]
        self.connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=30)
        self.connection.putrequest("PATCH", self.location)
        self.connection.putheader("Content-Length", str(len(data) - durable))
        self.connection.endheaders()
        self.connection.send(data[durable : durable + sent])

    def resume(self, url: str) -> None:
        """Ask what is durable, send the rest, close the upload."""
        status = requests.get(f"{url}{self.location}", timeout=30)
        assert status.status_code == 204, f"{status.status_code} {status.text}"
        first, _, last = status.headers["Range"].partition("-")
        assert (first, int(last) + 1 >= self.durable) == ("0", True), status.headers["Range"]
        rest = requests.patch(
            f"{url}{self.location}",
            data=self.data[int(last) + 1 :],
            headers={"Content-Range": f"{int(last) + 1}-{len(self.data) - 1}"},
            timeout=60,
        )
        assert rest.status_code == 202, rest.text
        closed = requests.put(f"{url}{self.location}?digest={digest_of(self.data)}", timeout=60)
        assert closed.status_code == 201, closed.text
