"""Any one process that stands still: unlike one that was killed it takes connections, and never answers."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from speedy.cluster import LocalCluster
from tests.cluster.conftest import CHUNK_BYTES
from tests.speedy.pushing import Pusher

LAYER = os.urandom(8 * CHUNK_BYTES)

#: what one push or pull may take: finding out takes about three seconds; the time-outs of the calls are 10 s (a
#: replica's write), 20 s (a read) and 45 s (a chunk)
SOON_S = 8.0


@contextmanager
def frozen(cluster: LocalCluster, name: str) -> Iterator[None]:
    identity = cluster.identity(name)
    assert identity is not None
    os.killpg(identity.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.killpg(identity.pid, signal.SIGCONT)


@pytest.mark.parametrize("name", ["imageserver-2", "chunkserver-1-2", "chunkmaster-1"])
def test_pushes_and_pulls_go_on_beside_a_process_that_stands_still(
    cluster: LocalCluster, pusher: Pusher, name: str
) -> None:
    cluster.up(timeout_s=120.0)
    before = pusher.push_blob("frozen", LAYER)
    with frozen(cluster, name):
        for _ in range(3):
            started_s = time.monotonic()
            during = pusher.push_blob("frozen", os.urandom(6 * CHUNK_BYTES))
            assert time.monotonic() - started_s < SOON_S
            for digest in (before, during):
                started_s = time.monotonic()
                pusher.pull_blob("frozen", digest)
                assert time.monotonic() - started_s < SOON_S
    cluster.up(timeout_s=120.0)
    pusher.push_blob("frozen", os.urandom(6 * CHUNK_BYTES))
