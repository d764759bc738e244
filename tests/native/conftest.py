"""Directories and stores for the engine's tests."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from native.engine import Engine, EngineOptions

CLUSTER_ID = "6f1ed002-ab59-4d2d-9c33-7b5a1b0f5d11"
MIB = 1 << 20

OpenStore = Callable[..., Engine]

COPIES_MAX = 20


def copy_running_store(directory: Path, copy: Path) -> None:
    """The files as a process that is killed now would leave them; once more where the engine has made, renamed or
    removed one meanwhile."""
    for left in reversed(range(COPIES_MAX)):
        names = sorted(path.name for path in directory.iterdir())
        try:
            shutil.copytree(directory, copy)
            if names == sorted(path.name for path in directory.iterdir()):
                return
        except (shutil.Error, OSError):
            if left == 0:
                raise
        shutil.rmtree(copy, ignore_errors=True)
    raise AssertionError(f"the names in {directory} kept changing")


@pytest.fixture
def fast_directory(tmp_path: Path) -> Iterator[Path]:
    """An empty directory in memory where there is one: these tests make thousands of small files."""
    shared = Path("/dev/shm")
    made = Path(tempfile.mkdtemp(prefix="speedy-engine-", dir=shared if shared.is_dir() else tmp_path))
    yield made
    shutil.rmtree(made)


@pytest.fixture
def open_store(fast_directory: Path) -> Iterator[OpenStore]:
    """Opens stores in ``fast_directory`` with small volumes; what is still open at the end is closed."""
    opened: list[Engine] = []

    def open_one(directory: Path = fast_directory, **changes: object) -> Engine:
        settings: dict[str, object] = {
            "cluster_id": CLUSTER_ID,
            "volume_size_first": MIB,
            "volume_size_max": 4 * MIB,
            "reserve_bytes": 0,
        }
        engine = Engine.open(directory, EngineOptions(**(settings | changes)))  # type: ignore[arg-type]
        opened.append(engine)
        return engine

    yield open_one
    for engine in opened:
        engine.close()
