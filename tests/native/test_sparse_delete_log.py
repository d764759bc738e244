"""Of a delete log only what was written is read: wherever the holes of its file are, no record behind them is missed.

Where data ends is the file system's word, and each has another grain: a page, a block of 4 KiB or of 1 KiB.
"""

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from native.checksum import crc32c
from native.engine import Engine
from tests import needs
from tests.disks import mounted, overlay, run

from . import oracle
from .conftest import MIB, OpenStore, copy_running_store

KIB, BLOCK = 1024, 4096
CHUNKS = 700
DELETED = 600  # nine full blocks, an open one and its spare
LAST, END = 10 * BLOCK, 11 * BLOCK
LATER = 80  # more deletes than a block holds
SET_ASIDE = 64 * KIB
DISK_BYTES = 24 * MIB


@dataclass(frozen=True)
class Log:
    """A delete log whose file has holes: everything but ``pieces`` (start, end) of the content, up to ``length``; with
    space set aside behind it, or none. A piece that ends behind the content is data all the same."""

    pieces: list[tuple[int, int]]
    length: int
    set_aside: bool = False

    def write(self, path: Path, content: bytes) -> None:
        path.unlink()  # a new file: one that is written over has no holes
        with path.open("wb", buffering=0) as file:
            for start, end in self.pieces:
                file.seek(start)
                assert file.write(content[start:end]) == end - start
            file.truncate(self.length)
            if self.set_aside:
                os.posix_fallocate(file.fileno(), 0, self.length + SET_ASIDE)
            os.fsync(file.fileno())


LOGS = {
    "whole": Log([(0, END)], END),
    "set aside behind it": Log([(0, END)], END, set_aside=True),
    "nothing was written": Log([], END, set_aside=True),
    "only a hole": Log([], END),
    "empty": Log([], 0),
    "first block missing": Log([(BLOCK, END)], END, set_aside=True),
    "one block in the middle missing": Log([(0, 4 * BLOCK), (5 * BLOCK, END)], END, set_aside=True),
    "every other block missing": Log([(at, at + BLOCK) for at in range(0, END, 2 * BLOCK)], END, set_aside=True),
    "only the last block": Log([(LAST, END)], END, set_aside=True),
    "a KiB of each block": Log([(at + KIB, at + 2 * KIB) for at in range(0, END, BLOCK)], END, set_aside=True),
    "ends within a block": Log([(0, LAST + KIB)], LAST + KIB),
    "ends within a record": Log([(0, LAST + 100)], LAST + 100),
    "ends within a record behind a hole": Log([(0, 2 * BLOCK), (8 * BLOCK, LAST + 100)], LAST + 100),
    "ends within a hole": Log([(0, 2 * BLOCK)], LAST + 100),
}


@pytest.fixture(params=["memory", "ext4 of 1 KiB", "overlay"])
def disk(request: pytest.FixtureRequest, fast_directory: Path, tmp_path: Path) -> Iterator[Path]:
    """An empty directory on each kind of file system."""
    if request.param == "memory":
        yield fast_directory
    elif request.param == "overlay":
        with overlay(fast_directory) as directory:
            yield directory
    else:
        image = tmp_path / "image"
        image.touch()
        os.truncate(image, DISK_BYTES)
        run(needs.program("mkfs.ext4", "e2fsprogs"), "-q", "-m", "0", "-b", "1024", image)
        with mounted(image, tmp_path / "disk") as directory:
            yield directory


def fids(engine: Engine) -> set[int]:
    return {chunk.fid for chunk in engine.iterate(limit=2 * CHUNKS)}


def test_no_record_is_missed_wherever_the_holes_of_the_log_are(disk: Path, open_store: OpenStore) -> None:
    made = disk / "made"
    made.mkdir()
    engine = open_store(made, appenders=1)  # all chunks in one volume, so all deletes in one log
    payload = b"a chunk"
    assert not any(engine.put_many([(fid, payload, crc32c(payload)) for fid in range(1, CHUNKS + 1)]))
    engine.checkpoint()  # what is deleted now is known to the delete log alone
    for fid in range(1, DELETED + 1):
        assert engine.delete(fid)
    content = (made / "v00000001.del").read_bytes()
    written = len(content.rstrip(b"\0"))
    assert LAST + KIB < written <= END
    for name, log in LOGS.items():
        copy = disk / "copy"
        copy_running_store(made, copy)
        log.write(copy / "v00000001.del", content)
        check(copy, open_store, name)
        shutil.rmtree(copy)


def check(copy: Path, open_store: OpenStore, name: str) -> None:
    """The engine sees what a reader sees that reads all of the file, and so it is after more deletes."""
    expected = set(oracle.read_store(copy).live)
    engine = open_store(copy)
    assert fids(engine) == expected, name
    later = sorted(expected)[:: len(expected) // LATER][:LATER]
    for fid in later:
        assert engine.delete(fid)
    # As it lies there now: closing writes a checkpoint, which knows by itself.
    again = copy.with_name("again")
    copy_running_store(copy, again)
    engine.close()
    assert set(oracle.read_store(again).live) == expected - set(later), name
    reopened = open_store(again)
    assert fids(reopened) == expected - set(later), name
    reopened.close()
    shutil.rmtree(again)
