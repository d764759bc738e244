"""What a store makes of files in its directory that it cannot know to be its own."""

from pathlib import Path

import pytest

from native.checksum import crc32c
from native.errors import StoreMismatch

from .conftest import OpenStore


def test_volumes_without_an_identity_are_not_taken_over(open_store: OpenStore, fast_directory: Path) -> None:
    engine = open_store()
    engine.put(1, b"x", crc32c(b"x"))
    engine.close()
    (fast_directory / "DISK").unlink()
    with pytest.raises(StoreMismatch, match="DISK"):
        open_store()


def test_unknown_files_are_counted_and_unfinished_ones_removed(open_store: OpenStore, fast_directory: Path) -> None:
    open_store().close()
    (fast_directory / "notes.txt").write_text("mine")
    (fast_directory / "v00000007.dat.tmp").write_bytes(bytes(5000))
    (fast_directory / "v00000001.ckp.tmp").write_bytes(b"half")
    engine = open_store()
    assert engine.stat().unknown_files == 1
    assert (fast_directory / "notes.txt").read_text() == "mine"
    assert not list(fast_directory.glob("*.tmp"))
