"""Many clients at once on the same names, through two registries: every answer is one that could be, and what is left
is one catalogue."""

from __future__ import annotations

import random
import uuid
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from registry_driver.manifest_document import OCI_INDEX, OCI_MANIFEST
from speedy.cluster import LocalCluster
from tests.conformance.api import Api
from tests.registry.client import Reply
from tests.registry.documents import descriptor, encoded, image, index, sha256
from tests.wire.serving import wait_until

CLIENTS = 12
STEPS = 25
WRITES = 40

CONFIG = b"{}"
BLOBS = [f"blob {number} ".encode() * 50 for number in range(24)]
TAGS = [f"t{number}" for number in range(6)]


@pytest.fixture
def repositories() -> list[str]:
    """Names that no other test uses. Of the last one blobs are deleted as well."""
    name = uuid.uuid4().hex
    return [f"race/{name}/{part}" for part in ("kept", "loose")]


def test_after_a_race_every_name_leads_to_what_it_names(cluster: LocalCluster, repositories: list[str]) -> None:
    with ThreadPoolExecutor(CLIENTS) as clients:
        racers = [Racer(_api(cluster), repositories, random.Random(seed)) for seed in range(CLIENTS)]
        for run in [clients.submit(racer.run) for racer in racers]:
            run.result()
    assert sum(racer.tagged for racer in racers) > CLIENTS, "hardly anything met"
    api = _api(cluster)
    for repository in repositories:
        tags = _same(api, f"/v2/{repository}/tags/list").json()["tags"]
        assert tags == sorted(set(tags))
        for tag in tags:
            manifest = _same(api, f"/v2/{repository}/manifests/{tag}")
            assert sha256(manifest.body) == manifest.headers["Docker-Content-Digest"]
            for layer in manifest.json().get("layers", ()):
                there = api.statuses("HEAD", f"/v2/{repository}/blobs/{layer['digest']}")
                assert there == {200} if repository == repositories[0] else len(there) == 1
        for blob in BLOBS:
            for referrer in _same(api, f"/v2/{repository}/referrers/{sha256(blob)}").json()["manifests"]:
                assert api.statuses("HEAD", f"/v2/{repository}/manifests/{referrer['digest']}") == {200}


def test_a_tag_never_leads_back_to_what_it_led_to_before(cluster: LocalCluster, repositories: list[str]) -> None:
    """One client moves a tag on and on; others, at either registry, never see an older one than was acknowledged before
    they asked, nor than they have seen."""
    repository = repositories[0]
    path = f"/v2/{repository}/manifests/moving"
    bodies = [encoded(index(annotations={"number": str(number)})) for number in range(WRITES)]
    numbers = {sha256(body): number for number, body in enumerate(bodies)}
    acknowledged = -1

    def read(api: Api, writing: Future[None]) -> int:
        newest = -1
        reads = 0
        while not writing.done() or reads == 0:
            before = acknowledged
            reply = api.send("HEAD" if reads % 2 else "GET", path)
            found = numbers[reply.headers["Docker-Content-Digest"]] if reply.status == 200 else -1
            assert found >= max(newest, before)
            newest = found
            reads += 1
        return reads

    def write(api: Api) -> None:
        nonlocal acknowledged
        for number, body in enumerate(bodies):
            assert api.send("PUT", path, body, {"Content-Type": OCI_INDEX}).status == 201
            acknowledged = number

    with ThreadPoolExecutor(4) as clients:
        writing = clients.submit(write, _api(cluster))
        reading = [clients.submit(read, _api(cluster), writing) for _ in range(3)]
        writing.result()
        assert all(each.result() > 0 for each in reading)


class Racer:
    """A client that does what comes to its mind, and knows which answers there are to it."""

    def __init__(self, api: Api, repositories: list[str], mind: random.Random) -> None:
        self._api = api
        self._repositories = repositories
        self._mind = mind
        self.tagged = 0

    def run(self) -> None:
        doings = (self.push, self.push, self.mount, self.tag, self.tag, self.pull, self.list, self.untag, self.delete)
        for _ in range(STEPS):
            self._mind.choice(doings)(self._mind.choice(self._repositories))

    def push(self, repository: str) -> None:
        for blob in (CONFIG, self._mind.choice(BLOBS)):
            answered(self._api.send("POST", f"/v2/{repository}/blobs/uploads/?digest={sha256(blob)}", blob), 201)

    def mount(self, repository: str) -> None:
        blob = self._mind.choice(BLOBS)
        source = self._mind.choice(self._repositories)
        path = f"/v2/{repository}/blobs/uploads/?mount={sha256(blob)}&from={source}"
        reply = answered(self._api.send("POST", path, b""), 201, 202)
        if reply.status == 202:
            answered(self._api.send("DELETE", reply.location), 204, 404)
            answered(self._api.send("POST", f"/v2/{repository}/blobs/uploads/?digest={sha256(blob)}", blob), 201)

    def tag(self, repository: str) -> None:
        """An image, and an index of it."""
        more = {"subject": descriptor(self._mind.choice(BLOBS), OCI_MANIFEST)} if self._mind.random() < 0.5 else {}
        layers = self._mind.sample(BLOBS, 2)
        body = encoded(image(CONFIG, *layers, **more))
        for document, media_type in ((body, OCI_MANIFEST), (encoded(index(body)), OCI_INDEX)):
            path = f"/v2/{repository}/manifests/{self._mind.choice(TAGS)}"
            reply = answered(self._api.send("PUT", path, document, {"Content-Type": media_type}), 201, 400)
            if reply.status == 400:
                assert reply.code() == "MANIFEST_BLOB_UNKNOWN"
                return
            self.tagged += 1
        if repository == self._repositories[0]:
            for blob in (CONFIG, *layers):
                answered(self._api.send("HEAD", f"/v2/{repository}/blobs/{sha256(blob)}"), 200)

    def pull(self, repository: str) -> None:
        for path in (f"manifests/{self._mind.choice(TAGS)}", f"blobs/{sha256(self._mind.choice(BLOBS))}"):
            reply = answered(self._api.send("GET", f"/v2/{repository}/{path}"), 200, 404)
            if reply.status == 200:
                assert sha256(reply.body) == reply.headers["Docker-Content-Digest"]

    def list(self, repository: str) -> None:
        reply = answered(self._api.send("GET", f"/v2/{repository}/tags/list"), 200, 404)
        if reply.status == 200:
            assert reply.json()["tags"] == sorted(set(reply.json()["tags"]))
        answered(self._api.send("GET", f"/v2/{repository}/referrers/{sha256(self._mind.choice(BLOBS))}"), 200)

    def untag(self, repository: str) -> None:
        answered(self._api.send("DELETE", f"/v2/{repository}/manifests/{self._mind.choice(TAGS)}"), 202, 404)

    def delete(self, repository: str) -> None:
        if repository != self._repositories[0]:
            blob = self._mind.choice(BLOBS)
            answered(self._api.send("DELETE", f"/v2/{repository}/blobs/{sha256(blob)}"), 202, 404)
        reply = answered(self._api.send("HEAD", f"/v2/{repository}/manifests/{self._mind.choice(TAGS)}"), 200, 404)
        if reply.status == 200:
            digest = reply.headers["Docker-Content-Digest"]
            answered(self._api.send("DELETE", f"/v2/{repository}/manifests/{digest}"), 202, 404)


def answered(reply: Reply, *statuses: int) -> Reply:
    assert reply.status in statuses, reply
    return reply


class Patient(Api):
    """Asks again while it is told to come again, as a busy cluster or one that has just started does."""

    def send(
        self,
        method: str,
        path: str,
        body: bytes | Iterator[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Reply:
        replies: list[Reply] = []

        def is_answered() -> bool:
            replies.append(super(Patient, self).send(method, path, body, headers))
            return replies[-1].status != 503

        wait_until(is_answered, 30.0, "another answer than 503")
        return replies[-1]


def _api(cluster: LocalCluster) -> Api:
    return Patient([registry.url for registry in cluster.plan().of("registry")])


def _same(api: Api, path: str) -> Reply:
    """What all front ends answer."""
    replies = [answered(api.send("GET", path), 200) for _ in range(api.fronts)]
    assert len({reply.body for reply in replies}) == 1
    return replies[0]
