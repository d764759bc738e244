"""The scrub: it finds what has decayed, says nothing false, goes on where it was, and keeps to its rate."""

import os
import random
import signal
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from native.checksum import crc32c
from native.engine import Engine, EngineOptions
from native.errors import ChunkCorrupt, ChunkNotFound
from native.values import Damage, ScrubProgress

from .conftest import CLUSTER_ID, MIB, OpenStore
from .stores import put

ROOT = Path(__file__).parents[2]
BLOCK = 256 * 1024
STEPS_MAX = 100_000
DEADLINE_S = 120.0


def flip(path: Path, offset: int, bit: int = 0) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1 << bit]))


def volume_file(directory: Path, volume: int) -> Path:
    return directory / f"v{volume:08}.dat"


def finish(engine: Engine, step_bytes: int = MIB) -> ScrubProgress:
    """Goes on to the end of the round under way."""
    for _ in range(STEPS_MAX):
        told = engine.scrub_step(step_bytes)
        if not told.active:
            return told
    raise AssertionError("the round does not end")


def scrub(engine: Engine) -> list[Damage]:
    engine.scrub_start()
    finish(engine)
    return engine.scrub_damage()


def fill(engine: Engine, count: int = 60, seed: int = 1) -> dict[int, bytes]:
    chance = random.Random(seed)
    lengths = [0, 1, 70, 4096, 5000, 60_000, 90_000, BLOCK, BLOCK + 1, 3 * BLOCK + 17]
    payloads = {fid: chance.randbytes(chance.choice(lengths)) for fid in range(1, count + 1)}
    for fid, payload in payloads.items():
        put(engine, fid, payload)
    return payloads


def test_a_store_without_damage_gets_a_round_without_findings(open_store: OpenStore) -> None:
    engine = open_store()
    assert engine.scrub_step(MIB).round == 0  # nothing was begun
    payloads = fill(engine)
    live_bytes = engine.stat().live_bytes
    assert scrub(engine) == []
    told = engine.scrub_status()
    assert (told.round, told.active, told.damaged) == (1, False, 0)
    assert (told.checked_chunks, told.checked_bytes, told.total_bytes) == (len(payloads), live_bytes, live_bytes)
    assert 0 < told.started_s <= told.ended_s <= time.time()
    stat = engine.stat()
    assert (stat.scrub_rounds, stat.scrub_damaged, stat.corrupt_reads) == (1, 0, 0)
    assert stat.scrubbed_bytes >= live_bytes
    assert stat.unknown_files == 0


def test_an_empty_store_gets_a_round_at_once(open_store: OpenStore) -> None:
    engine = open_store()
    assert scrub(engine) == []
    assert engine.scrub_status().round == 1


@pytest.mark.parametrize("closed", [False, True])
def test_a_flipped_bit_anywhere_in_a_needle_is_found_and_nothing_else(
    open_store: OpenStore, fast_directory: Path, closed: bool
) -> None:
    engine = open_store()
    payloads = fill(engine)
    chance = random.Random(3)
    harmed: dict[int, str] = {}
    for fid, part in {8: "header", 13: "header", 21: "header", 30: "first", 34: "last", 47: "payload"}.items():
        chunk = engine.info(fid)
        header = 128 + max(0, (len(payloads[fid]) + BLOCK - 1) // BLOCK - 8) * 64
        start = chunk.offset + header
        place = {
            "header": chunk.offset + chance.randrange(100),
            "first": start,
            "last": start + chunk.length - 1,
            "payload": start + chance.randrange(max(1, chunk.length)),
        }[part]
        if part != "header" and chunk.length == 0:
            place = chunk.offset + 40
        flip(volume_file(fast_directory, chunk.volume), place, chance.randrange(8))
        harmed[fid] = part
    if closed:
        engine.close()
        engine = open_store()
    found = scrub(engine)
    assert {damage.fid for damage in found} == set(harmed)
    for damage in found:
        chunk = engine.info(damage.fid)
        assert (damage.volume, damage.offset, damage.length) == (chunk.volume, chunk.offset, chunk.length)
        assert damage.what
        buffer = bytearray(chunk.length)
        if harmed[damage.fid] != "header" and chunk.length > 0:
            with pytest.raises(ChunkCorrupt):
                engine.read_into(damage.fid, 0, buffer)
            continue
        engine.read_into(damage.fid, 0, buffer)  # the bytes are good, and the index can tell
        assert buffer == payloads[damage.fid]
        if chunk.length > 1:
            with pytest.raises(ChunkCorrupt):  # a part cannot be verified without the header
                engine.read_into(damage.fid, 1, bytearray(1))
    assert engine.scrub_status().damaged == engine.stat().scrub_damaged == len(harmed)
    for fid, payload in payloads.items():
        if fid not in harmed:
            buffer = bytearray(len(payload))
            engine.read_into(fid, 0, buffer)
            assert buffer == payload


def test_every_bit_of_a_small_needle_counts(open_store: OpenStore, fast_directory: Path) -> None:
    engine = open_store()
    for fid in (1, 2, 3):
        put(engine, fid, os.urandom(50))
    place = engine.info(2)
    file = volume_file(fast_directory, 1)
    for at in range(place.offset, place.offset + 128 + 50):
        flip(file, at, at % 8)
        assert [damage.fid for damage in scrub(engine)] == [2], at - place.offset
        flip(file, at, at % 8)
    assert scrub(engine) == []


def test_each_block_of_a_large_chunk_is_checked(open_store: OpenStore, fast_directory: Path) -> None:
    engine = open_store(volume_size_max=16 * MIB)
    put(engine, 1, os.urandom(9 * BLOCK + 5))
    chunk = engine.info(1)
    file = volume_file(fast_directory, chunk.volume)
    start = chunk.offset + 192  # 96 bytes, 10 block checksums, rounded up
    for block in range(10):
        for at in {block * BLOCK, min((block + 1) * BLOCK, chunk.length) - 1}:
            flip(file, start + at)
            assert [damage.what for damage in scrub(engine)] == [f"block {block + 1} of 10 fails its checksum"]
            flip(file, start + at)


def test_a_needle_that_the_index_describes_otherwise_is_damage(open_store: OpenStore, fast_directory: Path) -> None:
    engine = open_store()
    put(engine, 1, b"one" * 100)
    put(engine, 2, b"two" * 100)
    chunk = engine.info(1)
    file = volume_file(fast_directory, 1)
    header = bytearray(file.read_bytes()[chunk.offset : chunk.offset + 128])
    struct.pack_into("<Q", header, 40, 77)  # another fid, and a valid checksum again
    struct.pack_into("<I", header, 12, 0)
    struct.pack_into("<I", header, 12, crc32c(header))
    with file.open("r+b") as volume:
        volume.seek(chunk.offset)
        volume.write(header)
    assert [(damage.fid, damage.what) for damage in scrub(engine)] == [(1, "header and index disagree")]


@pytest.mark.parametrize("copy", [0, 1])
def test_a_damaged_superblock_is_found_while_the_other_is_good(
    open_store: OpenStore, fast_directory: Path, copy: int
) -> None:
    engine = open_store()
    fill(engine, 5)
    flip(volume_file(fast_directory, 1), copy * 4096 + 90)
    engine.close()
    engine = open_store()
    (damage,) = scrub(engine)
    assert (damage.fid, damage.volume, damage.offset) == (0, 1, copy * 4096)
    assert "superblock" in damage.what


def test_bytes_that_are_missing_are_damage_of_their_chunks_only(open_store: OpenStore, fast_directory: Path) -> None:
    engine = open_store()
    for fid in range(1, 9):
        put(engine, fid, os.urandom(50_000))
    cut = engine.info(5)
    os.truncate(volume_file(fast_directory, 1), cut.offset + 128 + 50_000)  # 5 is whole, to the byte
    assert [damage.fid for damage in scrub(engine)] == [6, 7, 8]
    volume_file(fast_directory, 1).unlink()
    found = {damage.fid: damage.what for damage in scrub(engine)}
    assert set(found) == set(range(9))
    assert "cannot be read" in found[1]


def test_what_was_deleted_or_put_again_is_no_damage_any_more(open_store: OpenStore, fast_directory: Path) -> None:
    engine = open_store()
    payloads = {fid: os.urandom(5000) for fid in range(1, 5)}
    for fid, payload in payloads.items():
        put(engine, fid, payload)
    for fid in (1, 2, 3):
        flip(volume_file(fast_directory, 1), engine.info(fid).offset + 200)
    assert [damage.fid for damage in scrub(engine)] == [1, 2, 3]
    engine.delete(1)
    put(engine, 2, payloads[2])
    assert [damage.fid for damage in engine.scrub_damage()] == [3]
    assert engine.stat().scrub_damaged == 1
    flip(volume_file(fast_directory, 1), engine.info(3).offset + 200)  # a read error that passed
    assert scrub(engine) == []


def test_a_round_goes_on_where_the_process_before_stopped(open_store: OpenStore, fast_directory: Path) -> None:
    engine = open_store()
    payloads = fill(engine)
    engine.scrub_start()
    engine.scrub_step(2 * MIB)
    stopped = engine.scrub_status()
    assert stopped.active
    assert 0 < stopped.checked_chunks < len(payloads)
    engine.close()
    engine = open_store()
    assert engine.scrub_status() == stopped
    told = finish(engine)
    assert (told.round, told.checked_chunks) == (1, len(payloads))
    engine.close()
    engine = open_store()
    assert engine.scrub_status() == told
    assert engine.stat().scrub_rounds == 1


@pytest.mark.parametrize("spoil", ["remove", "flip", "cut", "foreign"])
def test_a_lost_cursor_only_starts_over(open_store: OpenStore, fast_directory: Path, spoil: str) -> None:
    engine = open_store()
    payloads = fill(engine)
    engine.scrub_start()
    engine.scrub_step(2 * MIB)
    engine.close()
    cursor = fast_directory / "SCRUB"
    if spoil == "remove":
        cursor.unlink()
    elif spoil == "flip":
        flip(cursor, 45)
    elif spoil == "cut":
        os.truncate(cursor, 100)
    else:
        other = open_store(fast_directory / "other")
        scrub(other)
        other.close()
        (fast_directory / "other" / "SCRUB").rename(cursor)
    engine = open_store()
    assert engine.scrub_status().round == 0
    assert scrub(engine) == []
    assert engine.scrub_status().checked_chunks == len(payloads)


def test_the_cursor_survives_kill_9(open_store: OpenStore, fast_directory: Path) -> None:
    engine = open_store()
    payloads = fill(engine)
    engine.close()
    program = (
        "import sys, pathlib\n"
        "from native.engine import Engine, EngineOptions\n"
        f"engine = Engine.open(pathlib.Path(sys.argv[1]), EngineOptions(cluster_id={CLUSTER_ID!r}))\n"
        "engine.scrub_start()\n"
        "while engine.scrub_status().volume < 3: engine.scrub_step(1 << 18)\n"
        "print('begun', flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(fast_directory)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"begun\n"
        process.send_signal(signal.SIGKILL)
        process.wait(DEADLINE_S)
    engine = open_store()
    told = engine.scrub_status()
    assert told.active
    assert (told.round, told.volume, told.offset) == (1, 3, 0)
    assert finish(engine).checked_chunks == len(payloads)
    assert engine.scrub_damage() == []


def test_what_is_put_during_a_round_belongs_to_the_next(open_store: OpenStore) -> None:
    engine = open_store()
    fill(engine, 30)
    volumes = {volume.id for volume in engine.volumes()}
    engine.scrub_start()
    for fid in range(1000, 1200):
        put(engine, fid, os.urandom(60_000))
    added = {volume.id for volume in engine.volumes()} - volumes
    assert added
    told = finish(engine)
    assert told.volume <= max(volumes) + 1
    engine.scrub_start()
    assert finish(engine).checked_chunks == 230


def test_a_round_reads_no_more_than_its_rate_allows(open_store: OpenStore) -> None:
    engine = open_store(volume_size_max=16 * MIB)
    for fid in range(1, 9):
        put(engine, fid, os.urandom(MIB))
    rate = 8 * MIB
    engine.scrub_start()
    began = time.monotonic()
    waits = 0
    while (told := engine.scrub_step(4 * MIB, rate)).active:
        passed_s = time.monotonic() - began
        assert engine.stat().scrubbed_bytes <= rate * passed_s + 3 * MIB  # one chunk is read to its end
        waits += told.wait_s > 0
        time.sleep(told.wait_s / 2)  # whoever comes early reads nothing more
    assert waits > 0
    assert time.monotonic() - began >= 0.5  # 8 MiB at 8 MiB/s, less a chunk and what was read ahead
    assert told.checked_chunks == 8


def test_nothing_false_is_reported_while_chunks_come_and_go(open_store: OpenStore) -> None:
    engine = open_store(volume_size_max=8 * MIB)
    stop = threading.Event()
    trouble: list[BaseException] = []

    def churn(number: int) -> None:
        chance = random.Random(number)
        mine: list[int] = []
        fid = number * 1_000_000
        try:
            while not stop.is_set():
                fid += 1
                put(engine, fid, chance.randbytes(chance.choice([0, 10, 5000, 30_000, 300_000])))
                mine.append(fid)
                if len(mine) > 40:
                    assert engine.delete(mine.pop(chance.randrange(len(mine))))
        except BaseException as exc:
            trouble.append(exc)
            raise

    threads = [threading.Thread(target=churn, args=(number,)) for number in (1, 2)]
    for thread in threads:
        thread.start()
    checked = rounds = 0
    deadline = time.monotonic() + DEADLINE_S
    try:
        while (checked < 500 or rounds < 5) and not trouble and time.monotonic() < deadline:
            rounds += 1
            engine.scrub_start()
            told = finish(engine, step_bytes=256 * 1024)
            checked += told.checked_chunks
            assert engine.scrub_damage() == []
            assert told.damaged == 0
    finally:
        stop.set()
        for thread in threads:
            thread.join(DEADLINE_S)
    assert not trouble
    assert checked >= 500


def test_nothing_false_is_reported_while_volumes_are_compacted(open_store: OpenStore) -> None:
    engine = open_store(compact_below=0.0)
    stop = threading.Event()
    removed: list[int] = []
    trouble: list[BaseException] = []

    def compact() -> None:
        chance = random.Random(1)
        fid = 0
        try:
            while not stop.is_set():
                for _ in range(30):
                    fid += 1
                    put(engine, fid, chance.randbytes(60_000))
                    if fid % 3:
                        engine.delete(fid)
                removed.append(engine.compact(1.0).volumes_removed)
        except BaseException as exc:
            trouble.append(exc)
            raise

    thread = threading.Thread(target=compact)
    thread.start()
    deadline = time.monotonic() + DEADLINE_S
    rounds = 0
    try:
        while (sum(removed) < 10 or rounds < 10) and not trouble and time.monotonic() < deadline:
            engine.scrub_start()
            assert finish(engine, step_bytes=256 * 1024).damaged == 0
            assert engine.scrub_damage() == []
            rounds += 1
    finally:
        stop.set()
        thread.join(DEADLINE_S)
    assert not trouble
    assert sum(removed) >= 10


def test_what_was_deleted_since_the_round_came_near_is_passed_over(open_store: OpenStore) -> None:
    engine = open_store(volume_size_first=16 * MIB, volume_size_max=16 * MIB)
    for fid in range(1, 100):
        put(engine, fid, os.urandom(50_000))
    engine.scrub_start()
    for _ in range(2):
        engine.scrub_step(1)  # now the places of all that follow are known
    for fid in range(1, 100):
        if fid % 3:
            engine.delete(fid)
    engine.checkpoint()  # their blocks are zeros now
    assert engine.stat().punched_bytes > MIB
    told = finish(engine)
    assert told.damaged == 0
    assert told.checked_chunks < 40
    assert engine.scrub_damage() == []


def test_puts_reads_and_deletes_pass_a_scrub_that_waits_for_its_rate(open_store: OpenStore) -> None:
    engine = open_store()
    payloads = fill(engine, 40)
    engine.scrub_start()
    told = engine.scrub_step(MIB, 1)  # a byte per second: it will not move again in this test
    assert told.active
    assert told.wait_s > 1000
    put(engine, 100, b"new")
    assert engine.delete(1)
    engine.read_into(40, 0, bytearray(len(payloads[40])))
    engine.checkpoint()
    engine.close()  # nor does closing wait


def test_every_step_ends_when_the_store_is_closed(open_store: OpenStore) -> None:
    engine = open_store()
    fill(engine, 60)
    running = threading.Event()
    ended: list[Exception] = []

    def work() -> None:
        try:
            while True:
                engine.scrub_start()
                running.set()
                engine.scrub_step(1 << 40)
        except Exception as exc:  # noqa: BLE001 - whatever ends it is looked at below
            ended.append(exc)

    thread = threading.Thread(target=work)
    thread.start()
    assert running.wait(DEADLINE_S)
    engine.close()
    thread.join(DEADLINE_S)
    assert not thread.is_alive()
    assert "closed" in str(ended[0])


def test_more_damage_than_is_listed_is_still_counted(open_store: OpenStore, fast_directory: Path) -> None:
    engine = open_store()
    count = 1100
    with_damage = range(1, count + 1)
    for fid in with_damage:
        put(engine, fid, b"x" * 200)
    engine.checkpoint()
    for fid in with_damage:
        chunk = engine.info(fid)
        flip(volume_file(fast_directory, chunk.volume), chunk.offset + 150)
    found = scrub(engine)
    assert len(found) == 1024
    assert engine.stat().scrub_damaged == engine.scrub_status().damaged == count
    with pytest.raises(ChunkNotFound):
        engine.info(count + 1)


def test_the_options_of_a_server_scrub_a_volume_that_is_sealed(tmp_path: Path) -> None:
    # On a file system of the disk, where O_DIRECT is likely to work; sealed volumes are read that way.
    options = EngineOptions(CLUSTER_ID, volume_size_first=MIB, volume_size_max=MIB, reserve_bytes=0, appenders=1)
    with Engine.open(tmp_path / "store", options) as engine:
        payloads = {fid: os.urandom(60_000) for fid in range(1, 60)}
        for fid, payload in payloads.items():
            put(engine, fid, payload)
        engine.checkpoint()
        sealed = {volume.id for volume in engine.volumes() if volume.state == "sealed"}
        assert sealed
        assert scrub(engine) == []
        victim = next(chunk for chunk in engine.iterate() if chunk.volume in sealed)
        flip(volume_file(tmp_path / "store", victim.volume), victim.offset + 30_000)
        assert [damage.fid for damage in scrub(engine)] == [victim.fid]
