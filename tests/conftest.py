"""Fixtures that every folder of tests may use."""

from collections.abc import Iterator
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]  # xdist ships no types

from tests.postgres import PostgresServer

_CLIENTS = "tests/clients/"


class _Together(LoadScopeScheduling):  # type: ignore[misc]
    """Where several processes share the tests (pytest -n), those that share servers stay together.

    Such are the tests of one file, and all that use docker and its friends: these share one dockerd and one cluster.
    """

    def _split_scope(self, nodeid: str) -> str:
        return _CLIENTS if nodeid.startswith(_CLIENTS) else nodeid.partition("::")[0]


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    return _Together(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if hasattr(config, "workerinput"):  # one of several processes: what takes longest is begun first
        items.sort(key=lambda item: not item.nodeid.startswith(_CLIENTS))


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A real PostgreSQL, one for the session; `with postgres_server.database() as url:` gives a fresh database."""
    with PostgresServer.start() as server:
        yield server


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> Iterator[str]:
    """SQLAlchemy address of a fresh, empty database, dropped after the test."""
    with postgres_server.database() as url:
        yield url
