"""Engine.verify: named volumes, apart from the round of the scrub."""

from __future__ import annotations

from pathlib import Path

import pytest

from native.engine import Engine
from native.errors import EngineError, VolumeNotFound
from native.values import Damage

from .conftest import MIB, OpenStore
from .test_compaction import fill as put_and_delete
from .test_scrub import fill, flip, put, volume_file

CALLS_MAX = 100_000
HEADER_BYTES = 200


def verify(engine: Engine, volume: int, bytes_max: int = MIB) -> tuple[int, int, list[Damage]]:
    """(chunks, bytes, damage) of a whole volume."""
    offset, chunks, size, damage = 0, 0, 0, []
    for _ in range(CALLS_MAX):
        told = engine.verify(volume, offset, bytes_max)
        assert told.offset >= offset
        offset, chunks, size = told.offset, chunks + told.checked_chunks, size + told.checked_bytes
        damage += told.damage
        if told.ended:
            return chunks, size, damage
    raise AssertionError("the volume does not end")


@pytest.mark.parametrize("bytes_max", [1, 100_000, 1 << 40])
def test_each_live_chunk_of_a_volume_is_verified_once_however_long_the_steps_are(
    open_store: OpenStore, bytes_max: int
) -> None:
    engine = open_store()
    payloads = fill(engine)
    for fid in range(1, 60, 7):
        engine.delete(fid)
    for volume in engine.volumes():
        assert verify(engine, volume.id, bytes_max) == (volume.chunks, volume.live_bytes, [])
    assert engine.stat().chunks < len(payloads)
    assert engine.scrub_status().round == 0  # the round of the scrub is another matter


def test_what_is_damaged_is_told_in_full_and_remembered_until_it_is_good_again(
    open_store: OpenStore, fast_directory: Path
) -> None:
    engine = open_store()
    payloads = fill(engine, count=200)
    places = {fid: engine.info(fid) for fid in payloads if payloads[fid]}
    for place in places.values():
        flip(volume_file(fast_directory, place.volume), place.offset + HEADER_BYTES // 2)
    damage = [found for volume in engine.volumes() for found in verify(engine, volume.id)[2]]
    assert sorted(found.fid for found in damage) == sorted(places)  # more than one call gives
    assert {(found.volume, found.offset) for found in damage} == {(at.volume, at.offset) for at in places.values()}
    assert engine.scrub_damage() == sorted(damage, key=lambda found: (found.volume, found.offset))
    assert engine.stat().scrub_damaged == len(damage)
    assert engine.scrub_status().damaged == 0  # of its own round
    for place in places.values():
        flip(volume_file(fast_directory, place.volume), place.offset + HEADER_BYTES // 2)
    assert [found for volume in engine.volumes() for found in verify(engine, volume.id)[2]] == []
    assert engine.stat().scrub_damaged == 0


def test_a_damaged_superblock_is_told(open_store: OpenStore, fast_directory: Path) -> None:
    engine = open_store()
    put(engine, 1, b"one")
    volume = engine.info(1).volume
    flip(volume_file(fast_directory, volume), 4096 + 20)
    chunks, _, damage = verify(engine, volume)
    assert (chunks, [(found.fid, found.offset) for found in damage]) == (1, [(0, 4096)])


def test_two_who_verify_different_volumes_in_turn_miss_nothing(open_store: OpenStore) -> None:
    engine = open_store()
    fill(engine, count=300)
    one, other = [volume for volume in engine.volumes() if volume.chunks][:2]
    offsets, chunks = {one.id: 0, other.id: 0}, {one.id: 0, other.id: 0}
    while offsets:
        for volume in list(offsets):
            told = engine.verify(volume, offsets[volume], 1)
            offsets[volume] = told.offset
            chunks[volume] += told.checked_chunks
            if told.ended:
                del offsets[volume]
    assert chunks == {one.id: one.chunks, other.id: other.chunks}


def test_a_volume_that_is_not_there_or_was_compacted_meanwhile_is_not_found(open_store: OpenStore) -> None:
    engine = open_store(compact_below=0.0)
    put_and_delete(engine, dict.fromkeys(range(1, 2001), 2000), lambda fid: fid % 3 != 0)
    volume = engine.volumes()[0].id
    told = engine.verify(volume, 0, 1)
    assert not told.ended
    assert engine.compact(below=1.0).volumes_removed > 0
    with pytest.raises(VolumeNotFound):
        engine.verify(volume, told.offset, 1)
    for missing in (0, 4711, 1 << 40):
        with pytest.raises(VolumeNotFound):
            engine.verify(missing, 0, 1)


def test_a_closed_store_verifies_nothing(open_store: OpenStore) -> None:
    engine = open_store()
    put(engine, 1, b"one")
    engine.close()
    with pytest.raises(EngineError):
        engine.verify(1, 0, 1)
