"""Implementations of the MetaServer's contract, each opened once for all its tests and emptied before each."""

from collections.abc import Iterator

import pytest

from metaserver.interface import MetaStore
from tests.metaserver import stores
from tests.metaserver.stores import Opened


@pytest.fixture(scope="session", params=stores.KINDS)
def meta_store_opened(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Opened]:
    directory = tmp_path_factory.mktemp("meta")
    if request.param == "sqlite":
        with stores.local(f"sqlite:///{directory / 'meta.db'}") as opened:
            yield opened
    elif request.param == "http":
        with stores.over_http(directory) as opened:
            yield opened
    else:
        server = request.getfixturevalue("postgres_server")
        with server.database() as url, stores.local(url) as opened:
            yield opened


@pytest.fixture
def meta_store(meta_store_opened: Opened) -> MetaStore:
    """An empty MetaStore: local on SQLite, local on PostgreSQL, over HTTP."""
    meta_store_opened.empty()
    return meta_store_opened.store
