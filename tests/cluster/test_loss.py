"""Any one process killed: what goes on without it, and that all is well when it is back."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests

from speedy.cluster import ClusterFailed, LocalCluster
from speedy.processes import is_alive
from tests.cluster.conftest import CHUNK_BYTES
from tests.speedy.pushing import Pusher, digest_of, expect

LAYER = os.urandom(4 * CHUNK_BYTES + 7)


@pytest.fixture
def whole(cluster: LocalCluster) -> Iterator[LocalCluster]:
    """The cluster, complete again after the test."""
    cluster.up(timeout_s=120.0)
    yield cluster
    cluster.up(timeout_s=120.0)


def kill(cluster: LocalCluster, *names: str) -> None:
    for name in names:
        identity = cluster.identity(name)
        assert identity is not None
        os.killpg(identity.pid, signal.SIGKILL)
        while is_alive(identity):
            time.sleep(0.01)


def test_without_the_master_pushes_and_pulls_go_on(whole: LocalCluster, pusher: Pusher) -> None:
    before = pusher.push_image("loss/master", "before", [LAYER])
    kill(whole, "chunkmaster-1")
    during = pusher.push_image("loss/master", "during", [os.urandom(2 * CHUNK_BYTES)])
    assert pusher.pull_image("loss/master", "before") == before
    assert pusher.pull_image("loss/master", "during") == during


def test_an_imageserver_started_while_no_master_is_up_serves_pulls(whole: LocalCluster, pusher: Pusher) -> None:
    digest = pusher.push_image("loss/restarted", "v", [LAYER])
    kill(whole, "chunkmaster-1", "imageserver-1", "imageserver-2")
    # Not ready, since it cannot write without fids; but it reads.
    with pytest.raises(ClusterFailed, match="imageserver-1 is not ready"):
        whole.start("imageserver-1", timeout_s=3.0)
    deadline_s = time.monotonic() + 30
    while pusher.send("GET", f"/v2/loss/restarted/blobs/{digest_of(LAYER)}").status_code != 200:
        assert time.monotonic() < deadline_s, whole.log_file("imageserver-1").read_text()[-2000:]
        time.sleep(0.2)
    assert pusher.pull_image("loss/restarted", "v") == digest


def test_without_one_imageserver_pushes_and_pulls_go_on(whole: LocalCluster, pusher: Pusher) -> None:
    before = pusher.push_image("loss/image", "before", [LAYER])
    kill(whole, "imageserver-2")
    during = pusher.push_image("loss/image", "during", [os.urandom(2 * CHUNK_BYTES)], pieces=2)
    assert pusher.pull_image("loss/image", "before") == before
    assert pusher.pull_image("loss/image", "during") == during


def test_without_one_registry_the_other_continues_its_uploads(whole: LocalCluster) -> None:
    first, second = (registry.url for registry in whole.plan().of("registry"))
    location = expect(Pusher(first).send("POST", "/v2/loss/front/blobs/uploads/"), 202).headers["Location"]
    location = expect(Pusher(first).send("PATCH", location, iter([LAYER[:CHUNK_BYTES]])), 202).headers["Location"]
    kill(whole, "registry-1")
    status = expect(Pusher(second).send("GET", location), 204)
    assert status.headers["Range"] == f"0-{CHUNK_BYTES - 1}"
    location = expect(Pusher(second).send("PATCH", location, iter([LAYER[CHUNK_BYTES:]])), 202).headers["Location"]
    expect(Pusher(second).send("PUT", f"{location}?digest={digest_of(LAYER)}"), 201)
    assert Pusher(second).pull_blob("loss/front", digest_of(LAYER)) == LAYER


@pytest.mark.parametrize("member", [1, 3])
def test_without_one_chunkserver_its_chunks_are_read_elsewhere_and_pushes_use_other_groups(
    whole: LocalCluster, pusher: Pusher, member: int
) -> None:
    before = pusher.push_image("loss/chunks", "before", [LAYER, os.urandom(3 * CHUNK_BYTES)])
    kill(whole, f"chunkserver-1-{member}")
    during = pusher.push_image("loss/chunks", "during", [os.urandom(6 * CHUNK_BYTES)])
    assert pusher.pull_image("loss/chunks", "before") == before
    assert pusher.pull_image("loss/chunks", "during") == during


def test_requests_wait_for_a_metaserver_that_comes_back(whole: LocalCluster, pusher: Pusher) -> None:
    before = pusher.push_image("loss/meta", "before", [LAYER])
    kill(whole, "metaserver-1")
    registry = whole.plan().of("registry")[0]
    with ThreadPoolExecutor(2) as clients:
        pull = clients.submit(Pusher(registry.url).pull_image, "loss/meta", "before")
        push = clients.submit(Pusher(registry.url).push_image, "loss/meta", "during", [LAYER])
        assert requests.get(f"{registry.url}/healthz", timeout=10).status_code == 200
        assert not pull.done()
        assert not push.done()
        whole.up(timeout_s=120.0)
        assert pull.result(60) == before
        during = push.result(60)
    assert pusher.pull_image("loss/meta", "during") == during
