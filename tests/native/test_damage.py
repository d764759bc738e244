"""What a store makes of damaged, missing, stale and foreign files."""

import os
import random
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from native.checksum import crc32c
from native.errors import ChunkCorrupt, StoreMismatch

from .conftest import MIB, OpenStore
from .stores import accounted, drop_checkpoints, flip, get, overwrite, put

HEADER_FIXED = 96
HEADER_CRC_AT = 12


@pytest.mark.parametrize("checkpointed", [True, False])
def test_any_flipped_bit_of_a_volume_harms_only_its_own_chunk(
    open_store: OpenStore, fast_directory: Path, checkpointed: bool
) -> None:
    engine = open_store()
    payloads = {fid: os.urandom(length) for fid, length in {1: 300, 2: 5000, 3: 0, 4: 70}.items()}
    for fid, payload in payloads.items():
        put(engine, fid, payload)
    places = {fid: engine.info(fid).offset for fid in payloads}
    engine.close()
    if not checkpointed:
        drop_checkpoints(fast_directory)
    saved = fast_directory.with_name(fast_directory.name + "-saved")
    shutil.copytree(fast_directory, saved)
    chance = random.Random(5)
    targets = [(0, bit) for bit in chance.sample(range(8 * 8192), 60)]
    for fid, offset in places.items():
        length = 128 + len(payloads[fid])
        targets += [(fid, 8 * offset + bit) for bit in chance.sample(range(8 * length), 250)]
    try:
        for harmed, bit in targets:
            flip(fast_directory / "v00000001.dat", bit)
            engine = open_store()
            for fid, payload in payloads.items():
                found = get(engine, fid)
                assert found == payload or (fid == harmed and found is None), f"fid {fid}, bit {bit}"
            put(engine, 99, b"goes on")
            assert get(engine, 99) == b"goes on"
            assert accounted(engine)
            engine.close()
            for path in fast_directory.iterdir():
                path.unlink()
            for path in saved.iterdir():
                shutil.copyfile(path, fast_directory / path.name)
    finally:
        shutil.rmtree(saved)


def damage_nothing(path: Path) -> None:
    assert path.exists()


def cut_in_half(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def flip_a_bit(path: Path) -> None:
    flip(path, 8 * (path.stat().st_size // 2))


def remove_both(path: Path) -> None:
    path.unlink()
    path.with_suffix(".ckp.old").unlink(missing_ok=True)


def use_the_one_before(path: Path) -> None:
    path.with_suffix(".ckp.old").rename(path)


@pytest.mark.parametrize(
    "damage", [damage_nothing, cut_in_half, flip_a_bit, remove_both, use_the_one_before, Path.unlink]
)
def test_the_index_is_the_same_whatever_became_of_the_checkpoints(
    open_store: OpenStore, fast_directory: Path, damage: Callable[[Path], None]
) -> None:
    chance = random.Random(6)
    engine = open_store()
    stored: dict[int, bytes] = {}
    for fid in range(1, 200):
        stored[fid] = os.urandom(chance.choice([0, 100, 4096, 60_000]))
        put(engine, fid, stored[fid])
        if fid % 4 == 0:
            engine.delete(fid - 2)
            del stored[fid - 2]
        if fid % 60 == 0:
            engine.checkpoint()
    before = engine.iterate()
    stat = engine.stat()
    engine.close()
    for path in fast_directory.glob("*.ckp"):
        if damage is not use_the_one_before or path.with_suffix(".ckp.old").exists():
            damage(path)
    engine = open_store()
    assert engine.iterate() == before
    assert all(get(engine, fid) == payload for fid, payload in stored.items())
    again = engine.stat()
    assert (again.live_bytes, again.dead_bytes) == (stat.live_bytes, stat.dead_bytes)
    # The keeper may prepare the next volume at any moment, which adds two superblocks.
    assert again.pad_bytes - 8192 * again.volumes == stat.pad_bytes - 8192 * stat.volumes
    assert (again.fid_max, again.volumes_quarantined) == (stat.fid_max, 0)


def test_the_highest_fid_is_known_also_when_its_chunk_was_deleted(open_store: OpenStore, fast_directory: Path) -> None:
    engine = open_store()
    put(engine, 5, b"x")
    put(engine, 900, b"y")
    engine.delete(900)
    for drop in (False, True, False):
        engine.close()
        if drop:
            drop_checkpoints(fast_directory)
        engine = open_store()
        assert engine.stat().fid_max == 900


def test_a_corrupt_chunk_says_so_and_is_replaced_by_putting_it_again(
    open_store: OpenStore, fast_directory: Path
) -> None:
    engine = open_store()
    payload = os.urandom(600_000)
    put(engine, 1, payload)
    place = engine.info(1)
    engine.close()
    flip(fast_directory / "v00000001.dat", 8 * (place.offset + 300_000))
    engine = open_store()
    with pytest.raises(ChunkCorrupt):
        engine.read_into(1, 0, bytearray(len(payload)))
    untouched = bytearray(1000)
    engine.read_into(1, 0, untouched)  # the damaged block is another
    assert untouched == payload[:1000]
    assert engine.stat().corrupt_reads == 1
    put(engine, 1, payload)
    assert get(engine, 1) == payload
    assert engine.info(1) != place
    for _ in range(2):
        engine.close()
        drop_checkpoints(fast_directory)
        engine = open_store()
        assert get(engine, 1) == payload
        assert accounted(engine)
    assert engine.delete(1)
    engine.close()
    drop_checkpoints(fast_directory)
    assert 1 not in open_store()  # nor does the damaged copy come back


def rewrite_header(path: Path, offset: int, change: Callable[[bytearray], None]) -> None:
    """Changes a needle's header and gives it a valid CRC again."""
    with path.open("r+b") as file:
        file.seek(offset)
        header = bytearray(file.read(128))
        change(header)
        header[HEADER_CRC_AT : HEADER_CRC_AT + 4] = bytes(4)
        header[HEADER_CRC_AT : HEADER_CRC_AT + 4] = struct.pack("<I", crc32c(header))
        file.seek(offset)
        file.write(header)


def test_valid_needles_behind_a_torn_one_are_kept_and_the_hole_is_covered(
    open_store: OpenStore, fast_directory: Path
) -> None:
    # One batch that reached the disk out of order: the second of three needles did not. The third carries the synced
    # seq of the batch before, so nothing says that the middle one was acknowledged.
    engine = open_store()
    volume = fast_directory / "v00000001.dat"
    for fid in (1, 2, 3):
        put(engine, fid, b"%d" % fid * 500)
    places = [engine.info(fid).offset for fid in (1, 2, 3)]
    engine.close()
    drop_checkpoints(fast_directory)
    rewrite_header(volume, places[2], lambda header: header.__setitem__(slice(56, 64), struct.pack("<Q", 1)))
    overwrite(volume, places[1] + 200, b"torn")
    for fid in (4, 5, 6):
        engine = open_store()
        assert [chunk.fid for chunk in engine.iterate()] == [1, 3, *range(4, fid)]
        assert get(engine, 3) == b"3" * 500
        assert engine.stat().volumes_quarantined == 0
        assert accounted(engine)
        put(engine, fid, b"goes on")
        assert engine.info(fid).volume == 1
        engine.close()
        drop_checkpoints(fast_directory)


def test_a_hole_that_was_acknowledged_puts_the_volume_in_quarantine(
    open_store: OpenStore, fast_directory: Path
) -> None:
    engine = open_store()
    for fid in (1, 2, 3):
        put(engine, fid, b"%d" % fid * 500)
    places = [engine.info(fid).offset for fid in (1, 2, 3)]
    engine.close()
    drop_checkpoints(fast_directory)
    overwrite(fast_directory / "v00000001.dat", places[1], bytes(700))
    before = (fast_directory / "v00000001.dat").read_bytes()
    for _ in range(2):
        engine = open_store()
        assert engine.stat().volumes_quarantined == 1
        assert [get(engine, fid) for fid in (1, 2, 3)] == [b"1" * 500, None, b"3" * 500]
        engine.close()
    engine = open_store()
    put(engine, 2, b"2" * 500)
    assert engine.info(2).volume == 2
    assert (fast_directory / "v00000001.dat").read_bytes() == before


def test_bytes_behind_the_last_needle_are_cleared_before_anything_is_written(
    open_store: OpenStore, fast_directory: Path
) -> None:
    engine = open_store()
    put(engine, 1, b"x" * 300)
    place = engine.info(1).offset
    engine.close()
    volume = fast_directory / "v00000001.dat"
    needle = volume.read_bytes()[place : place + 512]
    for offset in (place + 4096, place + 8192 + 64, place + 300_000):
        overwrite(volume, offset, needle)  # stale: another offset
    overwrite(volume, MIB - 10, b"the end")
    engine = open_store()
    assert [chunk.fid for chunk in engine.iterate()] == [1]
    engine.close()
    content = volume.read_bytes()
    assert content[place : place + 512] == needle
    assert not any(content[place + 512 :])


def test_a_needle_of_another_volume_is_not_taken_in(
    open_store: OpenStore, fast_directory: Path, tmp_path: Path
) -> None:
    # As stale blocks of the disk, or a write that went to the wrong file, would leave it: whole, and at its own offset.
    engine = open_store()
    put(engine, 1, b"own")
    engine.close()
    other = open_store(tmp_path)
    put(other, 1, b"own")
    put(other, 2, b"foreign")
    place = other.info(2).offset
    other.close()
    needle = (tmp_path / "v00000001.dat").read_bytes()[place : place + 192]
    overwrite(fast_directory / "v00000001.dat", place, needle)
    engine = open_store()
    assert [chunk.fid for chunk in engine.iterate()] == [1]
    assert engine.stat().volumes_quarantined == 0


def test_a_needle_that_was_written_to_a_wrong_place_is_not_taken_in(
    open_store: OpenStore, fast_directory: Path
) -> None:
    engine = open_store()
    put(engine, 1, b"one")
    put(engine, 2, b"")  # there is no payload whose checksum would tell
    place = engine.info(2).offset
    engine.close()
    drop_checkpoints(fast_directory)
    volume = fast_directory / "v00000001.dat"
    needle = volume.read_bytes()[place : place + 128]
    overwrite(volume, place, bytes(128))
    overwrite(volume, place + 4096, needle)
    assert [chunk.fid for chunk in open_store().iterate()] == [1]


def test_a_lost_manifest_is_made_again_from_the_volumes(open_store: OpenStore, fast_directory: Path) -> None:
    engine = open_store()
    for fid in range(1, 30):
        put(engine, fid, os.urandom(90_000))
    before = engine.iterate()
    engine.close()
    (fast_directory / "MANIFEST").unlink()
    for _ in range(2):
        engine = open_store()
        assert engine.iterate() == before
        put(engine, before[-1].fid + 1, b"on")
        engine.delete(before[-1].fid + 1)
        engine.close()


def test_damaged_manifest_records_are_skipped_and_counted(open_store: OpenStore, fast_directory: Path) -> None:
    engine = open_store()
    for fid in range(1, 30):
        put(engine, fid, os.urandom(90_000))
    before = engine.iterate()
    engine.close()
    flip(fast_directory / "MANIFEST", 8 * 4096 + 300)
    engine = open_store()
    assert engine.stat().damaged_records == 1
    assert engine.iterate() == before


def test_one_unreadable_volume_does_not_stop_the_others(open_store: OpenStore, fast_directory: Path) -> None:
    engine = open_store()
    for fid in range(1, 40):
        put(engine, fid, os.urandom(100_000))
    where = {chunk.fid: chunk.volume for chunk in engine.iterate()}
    assert max(where.values()) >= 3
    engine.close()
    overwrite(fast_directory / "v00000002.dat", 0, bytes(8192))
    (fast_directory / "v00000001.dat").unlink()
    engine = open_store()
    assert engine.stat().volumes_quarantined == 2
    assert {chunk.fid for chunk in engine.iterate()} == {fid for fid, volume in where.items() if volume > 2}
    put(engine, 100, b"new")
    assert engine.info(100).volume >= max(where.values())


def test_a_truncated_volume_serves_what_is_left(open_store: OpenStore, fast_directory: Path) -> None:
    engine = open_store()
    for fid in range(1, 5):
        put(engine, fid, b"%d" % fid * 100_000)
    middle = engine.info(3).offset
    engine.close()
    os.truncate(fast_directory / "v00000001.dat", middle + 5000)
    engine = open_store()
    assert [get(engine, fid) is not None for fid in range(1, 5)] == [True, True, False, False]
    assert engine.stat().volumes_quarantined == 1


def test_a_newer_format_and_a_damaged_identity_are_refused(open_store: OpenStore, fast_directory: Path) -> None:
    open_store().close()
    disk = fast_directory / "DISK"
    good = disk.read_bytes()
    flip(disk, 100)
    open_store().close()  # the second copy is good
    flip(disk, 8 * 4096 + 100)
    with pytest.raises(StoreMismatch, match="damaged"):
        open_store()
    newer = bytearray(good[:4096])
    struct.pack_into("<I", newer, 8, 2)
    struct.pack_into("<I", newer, 4092, crc32c(newer[:4092]))
    disk.write_bytes(bytes(newer) * 2)
    with pytest.raises(StoreMismatch, match="newer"):
        open_store()
    disk.write_bytes(good)
    open_store().close()
