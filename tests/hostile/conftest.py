from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hostile.world import World

_MEMORY = Path("/dev/shm")
_BYTES_MIN = 2 << 30


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    """In memory where there is room: thousands of pushes are made, and none of this is about disks."""
    roomy = _MEMORY.is_dir() and shutil.disk_usage(_MEMORY).free >= _BYTES_MIN
    with tempfile.TemporaryDirectory(prefix="speedy-hostile-", dir=_MEMORY if roomy else None) as directory:
        made = World(Path(directory))
        try:
            made.seed()
            yield made
            made.check_sound()
        finally:
            made.close()
