"""The registries that the sentences are held against: embedded on SQLite, and a cluster on PostgreSQL."""

from __future__ import annotations

import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from speedy.cluster import LocalCluster
from speedy.cluster_plan import Wanted
from tests.conformance.api import Api
from tests.postgres import PostgresServer
from tests.speedy.embedded import EmbeddedServer

#: small chunks, so that small blobs have several
CHUNK_BYTES = "65536"


@pytest.fixture(scope="package", params=["embedded", "cluster"])
def fronts(request: pytest.FixtureRequest) -> Iterator[list[str]]:
    """URLs of the front ends of one registry, for all tests here."""
    directory = Path(tempfile.mkdtemp(prefix="speedy-conformance-"))
    try:
        if request.param == "embedded":
            yield from _embedded(directory)
        else:
            yield from _cluster(directory, request.getfixturevalue("postgres_server"))
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _embedded(directory: Path) -> Iterator[list[str]]:
    server = EmbeddedServer(directory / "data", SPEEDY_REGISTRY_CHUNK_BYTES=CHUNK_BYTES)
    try:
        server.wait_ready()
        yield [server.url]
        assert server.stop() == 0, server.log_text()[-4000:]
    finally:
        server.kill()


def _cluster(directory: Path, postgres_server: PostgresServer) -> Iterator[list[str]]:
    """Two front ends."""
    with postgres_server.database() as url:
        local = LocalCluster(directory / "c")
        overrides = (("registry.chunk_bytes", CHUNK_BYTES),)
        try:
            local.up(Wanted(groups=1, imageservers=1, database_url=url, overrides=overrides), timeout_s=120.0)
            yield [registry.url for registry in local.plan().of("registry")]
        finally:
            local.down()


@pytest.fixture
def api(fronts: list[str]) -> Api:
    return Api(fronts)


@pytest.fixture
def repository() -> str:
    """A name that no other test uses."""
    return f"conformance/{uuid.uuid4().hex}"
