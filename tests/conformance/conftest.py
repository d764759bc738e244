"""The registries that the sentences are held against: embedded on SQLite, and a cluster on PostgreSQL."""

from __future__ import annotations

import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from speedy.cluster import LocalCluster
from speedy.cluster_plan import Wanted
from tests.conformance.api import Api, uploads_path
from tests.postgres import PostgresServer
from tests.speedy.embedded import EmbeddedServer
from tests.wire.serving import wait_until

#: small chunks, so that small blobs have several
CHUNK_BYTES = "65536"
START_S = 120.0


@pytest.fixture(scope="package", params=["embedded", "cluster"])
def fronts(request: pytest.FixtureRequest) -> Iterator[list[str]]:
    """URLs of the front ends of one registry, for all tests here."""
    directory = Path(tempfile.mkdtemp(prefix="speedy-conformance-"))
    try:
        if request.param == "embedded":
            started = _embedded(directory)
        else:
            started = _cluster(directory, request.getfixturevalue("postgres_server"))
        with started as urls:
            for url in urls:
                wait_until(partial(_takes_writes, Api([url])), START_S, "a group that takes writes")
            yield urls
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def _embedded(directory: Path) -> Iterator[list[str]]:
    server = EmbeddedServer(directory / "data", SPEEDY_REGISTRY_CHUNK_BYTES=CHUNK_BYTES)
    try:
        server.wait_ready()
        yield [server.url]
        assert server.stop() == 0, server.log_text()[-4000:]
    finally:
        server.kill()


@contextmanager
def _cluster(directory: Path, postgres_server: PostgresServer) -> Iterator[list[str]]:
    """Two front ends."""
    with postgres_server.database() as url:
        local = LocalCluster(directory / "c")
        overrides = (("registry.chunk_bytes", CHUNK_BYTES),)
        try:
            local.up(Wanted(groups=1, imageservers=1, database_url=url, overrides=overrides), timeout_s=START_S)
            yield [registry.url for registry in local.plan().of("registry")]
        finally:
            local.down()


def _takes_writes(api: Api) -> bool:
    return api.send("POST", uploads_path("conformance/first"), b"").status == 202


@pytest.fixture
def api(fronts: list[str]) -> Api:
    return Api(fronts)


@pytest.fixture
def repository() -> str:
    """A name that no other test uses."""
    return f"conformance/{uuid.uuid4().hex}"
