"""Local meta stores on fresh databases."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.metaserver import stores
from tests.metaserver.stores import Opened


@pytest.fixture
def sqlite_store(tmp_path: Path) -> Iterator[Opened]:
    with stores.local(f"sqlite:///{tmp_path / 'meta.db'}") as opened:
        yield opened


@pytest.fixture
def postgres_store(postgres_url: str) -> Iterator[Opened]:
    with stores.local(postgres_url) as opened:
        yield opened


@pytest.fixture(params=["sqlite_store", "postgres_store"])
def local_store(request: pytest.FixtureRequest) -> Opened:
    opened: Opened = request.getfixturevalue(request.param)
    return opened
