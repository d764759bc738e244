"""Fixtures that every folder of tests may use."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.postgres import PostgresServer

_CLIENTS = Path(__file__).parent / "clients"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Where several processes share the tests (pytest -n), those that share servers stay together.

    Such are the tests of one file, and all that use docker and its friends: these share one dockerd and one cluster.
    They take longest, so they are begun first.
    """
    if not config.pluginmanager.hasplugin("xdist"):
        return
    for item in items:
        group = "clients" if item.path.is_relative_to(_CLIENTS) else item.path.stem + item.path.parent.name
        item.add_marker(pytest.mark.xdist_group(group))
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: not item.path.is_relative_to(_CLIENTS))


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
