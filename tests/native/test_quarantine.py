"""What becomes of chunks whose volume cannot be opened for now, or has lost them: deletes, repairs and copies."""

import os
import shutil
from pathlib import Path

import pytest

from native.errors import StoreFailed

from . import oracle
from .conftest import OpenStore
from .stores import accounted, drop_checkpoints, get, overwrite, put


@pytest.fixture
def hidden_volume(open_store: OpenStore, fast_directory: Path) -> Path:
    """Chunks 1 and 2 are in a volume that cannot be opened for now: where its file waits."""
    engine = open_store()
    put(engine, 1, b"one")
    put(engine, 2, b"two")
    engine.close()
    waiting = fast_directory.with_name(fast_directory.name + "-volume")
    shutil.move(fast_directory / "v00000001.dat", waiting)
    return waiting


def test_what_is_deleted_while_its_volume_cannot_be_opened_stays_deleted(
    open_store: OpenStore, fast_directory: Path, hidden_volume: Path
) -> None:
    engine = open_store()
    assert engine.stat().volumes_quarantined == 1
    assert not engine.delete(1)
    assert not engine.delete(1 << 62)  # never was there
    put(engine, 2, b"two")  # by a repair: an older copy is in the volume
    assert engine.delete(2)
    put(engine, 1, b"one again")
    engine.close()
    shutil.move(hidden_volume, fast_directory / "v00000001.dat")
    drop_checkpoints(fast_directory)
    for _ in range(2):
        engine = open_store()
        assert (get(engine, 1), get(engine, 2)) == (b"one again", None)
        assert engine.stat().volumes_quarantined == 0
        assert engine.stat().fid_max == 2
        assert accounted(engine)
        engine.close()
        live = oracle.read_store(fast_directory).live
        assert live.keys() == {1}
        assert live[1][1].payload == b"one again"


def test_a_chunk_that_is_put_again_after_such_a_delete_stays(
    open_store: OpenStore, fast_directory: Path, hidden_volume: Path
) -> None:
    engine = open_store()
    assert not engine.delete(1)
    engine.close()
    shutil.move(hidden_volume, fast_directory / "v00000001.dat")
    for _ in range(2):
        engine = open_store()
        put(engine, 1, b"one again")
        assert get(engine, 1) == b"one again"
        assert engine.info(1).volume != 1  # where the record is about all needles of the fid
        engine.close()


def test_a_delete_that_could_be_undone_by_a_volume_that_comes_back_is_refused(
    open_store: OpenStore, fast_directory: Path, hidden_volume: Path
) -> None:
    (fast_directory / "v00000001.del").unlink()
    (fast_directory / "v00000001.del").mkdir()
    engine = open_store()
    put(engine, 2, b"two")
    for fid in (1, 2):
        with pytest.raises(StoreFailed, match="volume 1 cannot be read"):
            engine.delete(fid)
    assert get(engine, 2) == b"two"
    engine.close()
    (fast_directory / "v00000001.del").rmdir()
    shutil.move(hidden_volume, fast_directory / "v00000001.dat")
    engine = open_store()
    assert (get(engine, 1), get(engine, 2)) == (b"one", b"two")
    assert engine.delete(1)
    engine.close()


@pytest.mark.parametrize("whole", [True, False])
def test_no_copy_is_given_up_for_one_that_a_volume_in_quarantine_has_lost(
    open_store: OpenStore, fast_directory: Path, hidden_volume: Path, whole: bool
) -> None:
    engine = open_store()
    put(engine, 1, b"one")  # by a repair: an older copy is in the volume
    put(engine, 3, b"three" * 20_000)
    again, last = engine.info(1), engine.info(3)
    assert again.volume == last.volume == 2
    engine.close()
    shutil.move(hidden_volume, fast_directory / "v00000001.dat")
    if not whole:
        overwrite(fast_directory / "v00000002.dat", again.offset, bytes(200))
    os.truncate(fast_directory / "v00000002.dat", last.offset + 5000)
    for _ in range(2):
        engine = open_store()
        assert engine.stat().volumes_quarantined == 1
        assert get(engine, 1) == b"one"
        assert engine.info(1).volume == (2 if whole else 1)
        assert accounted(engine)
        engine.close()
    engine = open_store()
    assert engine.delete(1)
    engine.close()
    assert get(open_store(), 1) is None


def test_of_three_copies_the_one_that_is_whole_stays(
    open_store: OpenStore, fast_directory: Path, hidden_volume: Path
) -> None:
    volumes = [fast_directory / f"v0000000{number}.dat" for number in (1, 2, 3)]
    waiting = [hidden_volume, hidden_volume.with_name(hidden_volume.name + "-2")]
    for path in (waiting[1], None):
        engine = open_store()
        put(engine, 1, b"one")
        put(engine, 3 if path else 4, b"x" * 100_000)
        again = engine.info(1)
        engine.close()
        if path is not None:
            shutil.move(volumes[1], path)
    assert again.volume == 3
    for path, volume in zip(waiting, volumes, strict=False):
        shutil.move(path, volume)
    overwrite(volumes[0], 8192, bytes(200))  # the first chunk's place
    overwrite(volumes[2], again.offset, bytes(200))
    os.truncate(volumes[2], again.offset + 50_000)
    for _ in range(2):
        engine = open_store()
        assert get(engine, 1) == b"one"
        assert engine.info(1).volume == 2
        assert accounted(engine)
        engine.close()
