"""A ChunkServer's store in this process, with as many disks as a test gives it, and disks that fail."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from chunkserver.core import LocalChunkStore
from tests.chunkserver.rooms import OpenStore, engine_options
from tests.disks import TwoDisks, failing_device, hanging_device, two_disks


@pytest.fixture
def open_store(tmp_path: Path) -> OpenStore:
    def open_one(*disks: Path, **options: object) -> LocalChunkStore:
        chosen = replace(engine_options(), reserve_bytes=0, **options)  # type: ignore[arg-type]
        return LocalChunkStore.open(tmp_path / "data", chosen, server_id="cs-1", disks=disks)

    return open_one


@pytest.fixture
def one_may_fail(tmp_path: Path) -> Iterator[TwoDisks]:
    with two_disks(tmp_path, failing_device) as disks:
        yield disks


@pytest.fixture
def one_may_hang(tmp_path: Path) -> Iterator[TwoDisks]:
    with two_disks(tmp_path, hanging_device) as disks:
        yield disks
