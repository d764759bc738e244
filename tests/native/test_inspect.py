"""Looking into a store: its volumes, their needles by place, and digests over ranges of fids."""

import os
import random
from pathlib import Path

import pytest

from native.engine import RANGES_MAX, Engine
from native.errors import EngineError, VolumeNotFound

from .conftest import OpenStore
from .stores import put

U64 = (1 << 64) - 1


def test_the_volumes_add_up_to_what_stat_tells(open_store: OpenStore) -> None:
    engine = open_store()
    for fid in range(1, 60):
        put(engine, fid, os.urandom(90_000))
        if fid % 3 == 0:
            engine.delete(fid - 1)
    for _ in range(2):
        stat, volumes = engine.stat(), engine.volumes()
        assert [volume.id for volume in volumes] == sorted({volume.id for volume in volumes})
        assert len(volumes) == stat.volumes >= 3
        assert "active" in {volume.state for volume in volumes}
        for field in ("chunks", "payload_bytes", "live_bytes", "dead_bytes", "pad_bytes"):
            assert sum(getattr(volume, field) for volume in volumes) == getattr(stat, field), field
        assert sum(volume.free_bytes for volume in volumes) == stat.volume_free_bytes
        for volume in volumes:
            parts = volume.live_bytes + volume.dead_bytes + volume.pad_bytes + volume.free_bytes
            assert parts == volume.size_bytes
        engine.close()
        engine = open_store()


def test_the_needles_of_a_volume_come_in_the_order_of_their_places(open_store: OpenStore) -> None:
    engine = open_store()
    fids = random.Random(4).sample(range(1, 1000), 300)
    for fid in fids:
        put(engine, fid, os.urandom(fid % 7000))
    for fid in fids[::5]:
        engine.delete(fid)
    found = {}
    for volume in engine.volumes():
        needles = engine.needles(volume.id, limit=1000)
        assert [chunk.offset for chunk in needles] == sorted(chunk.offset for chunk in needles)
        assert len(needles) == volume.chunks
        assert all(chunk.offset < volume.tail for chunk in needles)
        pages, after = [], 0
        while page := engine.needles(volume.id, after, limit=7):
            pages += page
            after = page[-1].offset
        assert pages == needles
        found.update({chunk.fid: chunk for chunk in needles})
    assert found == {chunk.fid: chunk for chunk in engine.iterate()}
    for unknown in (0, 4711, 1 << 40):
        with pytest.raises(VolumeNotFound):
            engine.needles(unknown)


def mix(value: int) -> int:
    value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 & U64
    value = (value ^ value >> 27) * 0x94D049BB133111EB & U64
    return value ^ value >> 31


def digest_of(engine: Engine, first: int, last: int) -> str:
    """The definition in range_digest.c, once more."""
    halves = [0, 0]
    for chunk in engine.iterate(limit=100_000):
        if first <= chunk.fid <= last:
            facts = chunk.length << 32 | chunk.crc32c
            halves[0] += mix(mix(chunk.fid + 0x9E3779B97F4A7C15 & U64) ^ facts)
            halves[1] += mix(mix(chunk.fid + 0xC2B2AE3D27D4EB4F & U64) + facts & U64)
    return f"{halves[0] & U64:016x}{halves[1] & U64:016x}"


def test_range_digests_follow_their_definition(open_store: OpenStore) -> None:
    engine = open_store()
    fids = [1, 2, 255, 256, 257, 4095, 70_000, U64 - 1, U64]
    for fid in fids:
        put(engine, fid, os.urandom(fid % 300))
    for first, span, count in [(0, 8, 20), (256, 8, 1), (0, 63, 2), (U64 - 255, 8, 1), (0, 0, 300), (0, 12, 18)]:
        ranges = engine.range_digests(first, span, count)
        assert [found.first_fid for found in ranges] == [first + (number << span) for number in range(count)]
        for found in ranges:
            last = found.first_fid + (1 << span) - 1
            inside = [fid for fid in fids if found.first_fid <= fid <= last]
            assert found.chunks == len(inside)
            assert found.payload_bytes == sum(fid % 300 for fid in inside)
            assert found.digest == digest_of(engine, found.first_fid, last)


def test_two_stores_with_the_same_chunks_have_the_same_digests(open_store: OpenStore, tmp_path: Path) -> None:
    chance = random.Random(8)
    payloads = {fid: chance.randbytes(fid % 5000) for fid in range(1, 400)}
    one, other = open_store(tmp_path / "one"), open_store(tmp_path / "other")
    for fid, payload in payloads.items():
        put(one, fid, payload)
    put(other, 1000, b"to be deleted")
    for fid in chance.sample(list(payloads), len(payloads)):
        put(other, fid, payloads[fid])
    other.delete(1000)
    assert one.range_digests(0, 6, 16) == other.range_digests(0, 6, 16)
    one.delete(130)
    other.delete(330)
    put(other, 330, payloads[330][::-1])  # the same length, other bytes
    pairs = zip(one.range_digests(0, 6, 16), other.range_digests(0, 6, 16), strict=True)
    assert [number for number, (a, b) in enumerate(pairs) if a != b] == [130 >> 6, 330 >> 6]


@pytest.mark.parametrize(
    ("first", "span", "count"),
    [(1, 1, 1), (0, 64, 1), (0, 5, 0), (0, 5, RANGES_MAX + 1), (U64 - 255, 8, 2), (0, 63, 3), (-1, 0, 1), (0, -1, 1)],
)
def test_ranges_that_do_not_exist_are_refused(open_store: OpenStore, first: int, span: int, count: int) -> None:
    with pytest.raises(EngineError):
        open_store().range_digests(first, span, count)
