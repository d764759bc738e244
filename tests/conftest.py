"""Fixtures that every folder of tests may use."""

from collections.abc import Iterator

import pytest

from tests.postgres import PostgresServer


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
