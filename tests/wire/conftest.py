from collections.abc import Iterator

import pytest

from tests.wire.raw import RawConnection
from tests.wire.serving import Server, serving


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """The echo room without a key, shared by tests that leave it as they found it."""
    with serving("tests.wire.echo:build") as running:
        yield running


@pytest.fixture(scope="session")
def keyed_server() -> Iterator[Server]:
    with serving("tests.wire.echo:build", {"key": True}) as running:
        yield running


@pytest.fixture(scope="session")
def hasty_server() -> Iterator[Server]:
    """Few threads and short patience: what stalls shows at once."""
    arguments = {"idle_timeout_s": 0.5}
    with serving("tests.wire.echo:build", arguments, threads=2, head_timeout_s=1.0, idle_timeout_s=1.0) as running:
        yield running


@pytest.fixture
def raw(server: Server) -> Iterator[RawConnection]:
    with RawConnection(server.port) as connection:
        yield connection
