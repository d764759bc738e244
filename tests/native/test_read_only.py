"""Looking at a store without changing a byte of it, whatever state it was left in."""

import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from native.engine import Engine
from native.errors import EngineError, StoreLocked, StoreMismatch

from .conftest import CLUSTER_ID, MIB, OpenStore
from .stores import put


def fingerprint(directory: Path) -> dict[str, tuple[int, int, str]]:
    """Names, sizes, times of change and content of everything there."""
    return {
        path.name: (path.stat().st_size, path.stat().st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest())
        for path in directory.iterdir()
    }


def contents(engine: Engine) -> dict[int, bytes]:
    found = {}
    for chunk in engine.iterate(limit=100_000):
        buffer = bytearray(chunk.length)
        engine.read_into(chunk.fid, 0, buffer)
        found[chunk.fid] = bytes(buffer)
    return found


def left_clean(engine: Engine, directory: Path) -> None:
    engine.close()


#: stores and deletes a chunk more, and ends as by kill -9
_KILLED = """
import os, signal, sys
from pathlib import Path
from native.checksum import crc32c
from native.engine import Engine, EngineOptions

size = 1 << 20
options = EngineOptions(cluster_id=sys.argv[2], volume_size_first=size, volume_size_max=size, reserve_bytes=0)
engine = Engine.open(Path(sys.argv[1]), options)
payload = os.urandom(20_000)
engine.put(1000, payload, crc32c(payload))
assert engine.delete(1000)
os.kill(os.getpid(), signal.SIGKILL)
"""


def left_by_a_kill(engine: Engine, directory: Path) -> None:
    engine.close()
    command = [sys.executable, "-c", _KILLED, directory, CLUSTER_ID]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr


def left_without_checkpoints(engine: Engine, directory: Path) -> None:
    engine.close()
    for path in directory.glob("*.ckp*"):
        path.unlink()


def left_with_rubbish(engine: Engine, directory: Path) -> None:
    """A torn end, an unfinished file, a damaged record, no LOCK and no MANIFEST: all of it would be tidied up."""
    end = max(chunk.offset for chunk in engine.iterate(limit=100_000) if chunk.volume == 1)
    engine.close()
    with (directory / "v00000001.dat").open("r+b") as volume:
        volume.seek(end + 200_000)
        volume.write(b"torn" * 100)
    for path in directory.glob("*.ckp*"):
        path.unlink()
    (directory / "v00000009.dat.tmp").write_bytes(b"half")
    (directory / "MANIFEST").unlink()
    (directory / "LOCK").unlink()


def left_in_a_compaction(engine: Engine, directory: Path) -> None:
    """The records count; but the new volumes do not have their names yet, and the old files are still there."""
    engine.checkpoint()
    old = {path: path.read_bytes() for path in directory.glob("v*")}
    assert engine.compact(below=1.0).volumes_made == 2
    engine.close()
    for made in sorted(path for path in directory.glob("v*.dat") if path not in old)[-2:]:
        made.rename(made.with_name(made.name + ".tmp"))
    for path, content in old.items():
        path.write_bytes(content)


def left_before_the_records_of_a_compaction(engine: Engine, directory: Path) -> None:
    """As above, but no record got to the disk: the old files are what counts."""
    manifest = directory / "MANIFEST"
    engine.checkpoint()
    before = manifest.read_bytes()
    left_in_a_compaction(engine, directory)
    manifest.write_bytes(before)


@pytest.mark.parametrize(
    "leave",
    [
        *(left_clean, left_by_a_kill, left_without_checkpoints, left_with_rubbish),
        *(left_in_a_compaction, left_before_the_records_of_a_compaction),
    ],
)
def test_everything_is_seen_and_not_a_byte_is_changed(
    open_store: OpenStore, fast_directory: Path, leave: object
) -> None:
    assert callable(leave)
    engine = open_store(volume_size_max=MIB)
    stored = {fid: os.urandom(fid * 997 % 60_000) for fid in range(1, 80)}
    for fid, payload in stored.items():
        put(engine, fid, payload)
    for fid in range(2, 80, 5):
        engine.delete(fid)
        del stored[fid]
    leave(engine, fast_directory)
    before = fingerprint(fast_directory)
    for _ in range(2):
        engine = open_store(read_only=True)
        assert contents(engine) == stored
        assert engine.stat().chunks == len(stored) == sum(volume.chunks for volume in engine.volumes())
        assert {volume.state for volume in engine.volumes()} <= {"active", "closing", "sealed", "standby"}
        engine.scrub_start()
        while engine.scrub_step(MIB).active:
            pass
        assert engine.scrub_damage() == []
        assert engine.scrub_status().checked_chunks == len(stored)
        engine.close()
        assert fingerprint(fast_directory) == before
    assert contents(open_store()) == stored


def test_whatever_would_change_it_is_refused(open_store: OpenStore) -> None:
    engine = open_store()
    put(engine, 1, b"one")
    engine.close()
    engine = open_store(read_only=True)
    for change in (
        lambda: put(engine, 2, b"two"),
        lambda: put(engine, 1, b"one"),
        lambda: engine.delete(1),
        engine.checkpoint,
        engine.compact,
    ):
        with pytest.raises(EngineError, match="reading only"):
            change()
    assert contents(engine) == {1: b"one"}


def test_a_damaged_chunk_is_found_without_writing(open_store: OpenStore, fast_directory: Path) -> None:
    engine = open_store()
    put(engine, 1, b"one" * 100)
    offset = engine.info(1).offset
    engine.close()
    with (fast_directory / "v00000001.dat").open("r+b") as volume:
        volume.seek(offset + 200)
        volume.write(b"X")
    before = fingerprint(fast_directory)
    engine = open_store(read_only=True)
    engine.scrub_start()
    engine.scrub_step(MIB)
    assert [damage.fid for damage in engine.scrub_damage()] == [1]
    engine.close()
    assert fingerprint(fast_directory) == before


def test_a_store_that_is_open_for_writing_is_not_looked_at(open_store: OpenStore) -> None:
    engine = open_store()
    put(engine, 1, b"one")
    with pytest.raises(StoreLocked):
        open_store(read_only=True)
    engine.close()
    looking = open_store(read_only=True)
    with pytest.raises(StoreLocked):  # nor may it change while somebody looks
        open_store()
    looking.close()
    assert contents(open_store()) == {1: b"one"}


def test_a_directory_without_a_store_stays_empty(open_store: OpenStore, fast_directory: Path) -> None:
    with pytest.raises(StoreMismatch):
        open_store(read_only=True)
    with pytest.raises(EngineError):
        open_store(fast_directory / "nothing", read_only=True)
    assert list(fast_directory.iterdir()) == []
