"""Fixtures that every folder of tests may use."""

from collections.abc import Iterator
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]  # xdist ships no types

from tests.postgres import PostgresServer

_CLIENTS = "tests/clients/"
_COMPOSE = "compose"
_CONFORMANCE = "tests/conformance/"
#: Folders with files that take minutes: begun last, one of them would be waited for by all others.
_LONG = (_CLIENTS, "tests/native/", "tests/transfer/", "tests/cluster/", "tests/packaging/")


class _Together(LoadScopeScheduling):  # type: ignore[misc]
    """Where several processes share the tests (pytest -n), those that share servers stay together.

    Such are the tests of one file, and all of a folder whose servers are started once for the folder: one dockerd and
    one cluster for docker and its friends, an embedded server and a cluster for the specification's sentences. What
    docker-compose.yml takes is for one of them: its images alone are minutes of work.
    """

    def _split_scope(self, nodeid: str) -> str:
        if nodeid.startswith(_CLIENTS) and _COMPOSE in nodeid:
            return f"{_CLIENTS}{_COMPOSE}"
        folder = next((folder for folder in (_CLIENTS, _CONFORMANCE) if nodeid.startswith(folder)), None)
        return folder or nodeid.partition("::")[0]


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    return _Together(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if hasattr(config, "workerinput"):  # one of several processes: what takes longest is begun first
        items.sort(key=lambda item: _turn(item.nodeid))


def _turn(nodeid: str) -> tuple[int, bool]:
    folder = next((number for number, folder in enumerate(_LONG) if nodeid.startswith(folder)), len(_LONG))
    return folder, _COMPOSE not in nodeid


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
