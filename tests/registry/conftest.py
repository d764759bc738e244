"""A registry in a real gunicorn process, and a plain HTTP client for it."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from tests.registry.client import Client, client_of, faults_directory
from tests.wire.serving import serving


@pytest.fixture(scope="session")
def served() -> Iterator[Client]:
    """One server for all tests that only look at answers. Chunks of 64 KiB, so that small blobs have several."""
    with (
        faults_directory() as directory,
        serving(
            "tests.registry.served:build", {"directory": str(directory), "chunk_bytes": 64 * 1024}, threads=64
        ) as server,
    ):
        yield client_of(server, directory)


@pytest.fixture
def client(served: Client) -> Iterator[Client]:
    """The server through a connection of the test's own."""
    own = served.again()
    yield own
    own.close()


@pytest.fixture
def repository() -> str:
    """A name that no other test uses."""
    return f"tests/{uuid.uuid4().hex}"
