"""A ChunkServer's store in this process, with as many disks as a test gives it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from chunkserver.core import LocalChunkStore
from tests.chunkserver.rooms import OpenStore, engine_options


@pytest.fixture
def open_store(tmp_path: Path) -> OpenStore:
    def open_one(*disks: Path, **options: object) -> LocalChunkStore:
        chosen = replace(engine_options(), reserve_bytes=0, **options)  # type: ignore[arg-type]
        return LocalChunkStore.open(tmp_path / "data", chosen, server_id="cs-1", disks=disks)

    return open_one
