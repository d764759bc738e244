"""A real cluster on a real PostgreSQL: 2 groups of 3 ChunkServers, 2 ImageServers, 2 registries, each a process."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from speedy.cluster import LocalCluster
from speedy.cluster_plan import Wanted
from tests.postgres import PostgresServer
from tests.speedy.pushing import Pusher

#: small chunks, so that small layers have many of them
CHUNK_BYTES = 1024 * 1024


@pytest.fixture(scope="package")
def cluster(postgres_server: PostgresServer) -> Iterator[LocalCluster]:
    """One cluster for all tests here; each leaves every process running."""
    directory = Path(tempfile.mkdtemp(prefix="speedy-cluster-"))
    with postgres_server.database() as url:
        local = LocalCluster(directory / "c")
        try:
            local.up(
                Wanted(database_url=url, overrides=(("registry.chunk_bytes", str(CHUNK_BYTES)), ("log.level", "info"))),
                timeout_s=120.0,
            )
            yield local
            assert local.down() == [], "processes had to be killed"
        finally:
            local.down()
            shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def pusher(cluster: LocalCluster) -> Pusher:
    """Each request goes to the other registry."""
    return Pusher(*(registry.url for registry in cluster.plan().of("registry")))
