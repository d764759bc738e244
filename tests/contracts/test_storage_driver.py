"""The promises of StorageDriver (registry_driver/driver.py), held by ChunkedDriver over an ImageStore in process and
over HTTP."""

from __future__ import annotations

import hashlib
import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise

import pytest

from imageserver.interface import ImageStore
from metaserver.interface import Fragment
from native.digest import Digest
from registry_driver.chunked import ChunkedDriver, DriverLimits
from registry_driver.driver import WriteProgress
from tests.imageserver.cluster import MemoryCluster, memory_cluster
from tests.imageserver.http import served
from tests.imageserver.waiting import wait_until
from wire.buffers import BufferPool
from wire.errors import (
    BadRequest,
    ChunkNotFound,
    ChunkUnreadable,
    NoGroupAvailable,
    Overloaded,
    RangeNotSatisfiable,
    StorageFull,
    TruncatedBody,
    Unavailable,
    UploadConflict,
)

CHUNK = 256 * 1024


class Pieces:
    """A ByteSource that gives `data` in pieces of at most `piece_bytes`, then the end or `error`."""

    def __init__(self, data: bytes, piece_bytes: int = 100_000, error: Exception | None = None) -> None:
        self._left = memoryview(data)
        self._piece_bytes = piece_bytes
        self._error = error
        self.before_piece: Callable[[int], None] | None = None
        self.given = 0

    def readinto(self, buffer: memoryview) -> int:
        assert len(buffer) > 0
        if self.before_piece is not None:
            self.before_piece(self.given)
        count = min(len(buffer), self._piece_bytes, len(self._left))
        if count == 0 and self._error is not None:
            raise self._error
        buffer[:count] = self._left[:count]
        self._left = self._left[count:]
        self.given += count
        return count


@dataclass
class Recorder:
    """Takes records as a MetaServer would: each must continue the one before."""

    offset: int = 0
    fragments: list[Fragment] = field(default_factory=list)
    states: list[bytes] = field(default_factory=list)
    threads: set[int] = field(default_factory=set)

    def __call__(self, progress: WriteProgress) -> None:
        self.threads.add(threading.get_ident())
        for fragment in progress.fragments:
            assert fragment.offset == self.offset
            assert fragment.length > 0
            self.offset += fragment.length
        assert progress.offset == self.offset
        self.fragments += progress.fragments
        self.states.append(progress.digest_state)


@dataclass
class Setup:
    cluster: MemoryCluster
    images: ImageStore
    pool: BufferPool

    def driver(self, **options: object) -> ChunkedDriver:
        return ChunkedDriver(self.images, self.pool, DriverLimits(CHUNK, **options))  # type: ignore[arg-type]


@pytest.fixture(params=["local", "http"])
def setup(request: pytest.FixtureRequest) -> Iterator[Setup]:
    cluster = memory_cluster(groups=1)
    local = cluster.image_store()
    pool = BufferPool(CHUNK, 16)
    if request.param == "local":
        yield Setup(cluster, local, pool)
    else:
        with served(local) as remote:
            yield Setup(cluster, remote, pool)
    local.close()
    assert pool.in_use == 0


def some_bytes(count: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(count)


def write(driver: ChunkedDriver, data: bytes, piece_bytes: int = 100_000) -> list[Fragment]:
    recorder = Recorder()
    digest = Digest("sha256")
    recorder(driver.write_stream(Pieces(data, piece_bytes), offset=0, digest=digest, record=recorder))
    assert recorder.offset == len(data)
    assert digest.hexdigest() == hashlib.sha256(data).hexdigest()
    return recorder.fragments


def read(driver: ChunkedDriver, fragments: list[Fragment], offset: int, length: int) -> bytes:
    return b"".join(bytes(view) for view in driver.read_stream(fragments, offset, length))


SIZES = [0, 1, 4096, 65535, 65536, 65537, CHUNK - 1, CHUNK, CHUNK + 1, CHUNK + 65536, 5 * CHUNK, 7 * CHUNK + 123]


@pytest.mark.parametrize("size", SIZES)
def test_what_was_written_is_read_back(setup: Setup, size: int) -> None:
    driver = setup.driver()
    data = some_bytes(size)
    fragments = write(driver, data)
    assert [f.length for f in fragments] == [CHUNK] * (size // CHUNK) + [size % CHUNK] * (size % CHUNK > 0)
    assert read(driver, fragments, 0, size) == data


@pytest.mark.parametrize("piece_bytes", [1000, 65536, 1 << 30])
def test_how_the_bytes_arrive_does_not_matter(setup: Setup, piece_bytes: int) -> None:
    driver = setup.driver()
    data = some_bytes(3 * CHUNK + 77)
    assert [f.length for f in write(driver, data, piece_bytes)] == [CHUNK, CHUNK, CHUNK, 77]


@pytest.mark.parametrize("read_piece_bytes", [64 * 1024, CHUNK])
def test_any_range_can_be_read(setup: Setup, read_piece_bytes: int) -> None:
    driver = setup.driver(read_piece_bytes=read_piece_bytes)
    data = some_bytes(4 * CHUNK + 5000)
    fragments = write(driver, data)
    draw = random.Random(5)
    ranges = [(0, 0), (0, 1), (len(data) - 1, 1), (len(data), 0), (CHUNK, CHUNK), (CHUNK - 1, 2), (0, len(data))]
    for _ in range(12):
        first, last = sorted((draw.randrange(len(data)), draw.randrange(len(data))))
        ranges.append((first, last - first))
    for offset, length in ranges:
        assert read(driver, fragments, offset, length) == data[offset : offset + length]


@pytest.mark.parametrize(("offset", "length"), [(-1, 1), (0, 101), (101, 0), (50, 51), (0, -1)])
def test_a_range_outside_the_file_is_refused_before_the_first_byte(setup: Setup, offset: int, length: int) -> None:
    driver = setup.driver()
    fragments = write(driver, some_bytes(100))
    with pytest.raises(RangeNotSatisfiable):
        driver.read_stream(fragments, offset, length)


def test_a_file_of_many_streams_with_fragments_of_any_length_is_read_as_one(setup: Setup) -> None:
    driver = setup.driver()
    data = some_bytes(3 * CHUNK)
    cuts = [0, 10, 5000, CHUNK + 7, 2 * CHUNK + 90_000, 3 * CHUNK]
    recorder, digest = Recorder(), Digest("sha256")
    for start, stop in pairwise(cuts):
        recorder(driver.write_stream(Pieces(data[start:stop]), offset=start, digest=digest, record=recorder))
        digest = Digest.import_state(recorder.states[-1])  # as the next request, perhaps elsewhere, finds it
    assert digest.hexdigest() == hashlib.sha256(data).hexdigest()
    for offset, length in [(0, len(data)), (4990, 20), (CHUNK, 90_000)]:
        assert read(driver, recorder.fragments, offset, length) == data[offset : offset + length]


def test_an_empty_stream_advances_nothing(setup: Setup) -> None:
    digest = Digest("sha256")
    digest.update(b"before")
    progress = setup.driver().write_stream(Pieces(b""), offset=6, digest=digest, record=Recorder())
    assert progress.fragments == ()
    assert progress.offset == 6
    assert Digest.import_state(progress.digest_state).hexdigest() == hashlib.sha256(b"before").hexdigest()


# -- recording -----------------------------------------------------------------------------------------------------
def test_progress_is_recorded_at_least_every_record_bytes_in_the_calling_thread_and_the_last_part_is_returned(
    setup: Setup,
) -> None:
    driver = setup.driver(record_bytes=2 * CHUNK, record_s=1000.0)
    data = some_bytes(12 * CHUNK + 5)
    recorder, digest = Recorder(), Digest("sha256")
    last = driver.write_stream(Pieces(data), offset=0, digest=digest, record=recorder)
    assert recorder.offset >= 4 * CHUNK  # at most a window and two intervals behind
    assert recorder.threads == {threading.get_ident()}
    recorded = recorder.offset
    assert last.fragments
    recorder(last)
    assert recorder.offset == len(data)
    # every state covers exactly its offset
    offsets = [0]
    for state in recorder.states:
        offsets.append(Digest.import_state(state).length)
        assert Digest.import_state(state).hexdigest() == hashlib.sha256(data[: offsets[-1]]).hexdigest()
    assert offsets == sorted(offsets)
    assert recorded in offsets


def test_a_slow_chunk_does_not_let_the_rest_run_ahead_of_what_can_be_recorded(setup: Setup) -> None:
    driver = setup.driver(record_bytes=2 * CHUNK, write_window=3)
    source = Pieces(some_bytes(30 * CHUNK))
    seen: list[int] = []

    def slow_first(fid: int) -> None:
        if fid == 1:
            wait_until(lambda: source.given >= 5 * CHUNK)  # two intervals' worth of chunks and the window behind it
            time.sleep(0.05)
            seen.append(source.given)

    setup.cluster.stores["g1m1"].before_put = slow_first
    recorder = Recorder()
    recorder(driver.write_stream(source, offset=0, digest=Digest("sha256"), record=recorder))
    assert recorder.offset == 30 * CHUNK
    assert seen[0] <= 7 * CHUNK + 65536  # over HTTP the first fid may be the third chunk's


def test_progress_is_recorded_in_time_while_bytes_trickle(setup: Setup) -> None:
    driver = setup.driver(record_s=0.02)
    recorder = Recorder()
    source = Pieces(some_bytes(CHUNK + 60_000), 5_000)
    waited = threading.Event()

    def trickle(given: int) -> None:
        if given > CHUNK and recorder.offset == 0:
            waited.wait(0.02)

    source.before_piece = trickle
    last = driver.write_stream(source, offset=0, digest=Digest("sha256"), record=recorder)
    assert recorder.offset == CHUNK
    assert [f.offset for f in last.fragments] == [CHUNK]


@pytest.mark.parametrize("cut_at", [0, 1000, CHUNK, 2 * CHUNK + 1000, 2 * CHUNK + 100_000])
def test_a_cut_source_leaves_its_durable_prefix_recorded(setup: Setup, cut_at: int) -> None:
    driver = setup.driver()
    data = some_bytes(cut_at)
    recorder = Recorder()
    with pytest.raises(TruncatedBody):
        driver.write_stream(
            Pieces(data, error=TruncatedBody("cut")), offset=0, digest=Digest("sha256"), record=recorder
        )
    assert recorder.offset == cut_at
    assert read(driver, recorder.fragments, 0, recorder.offset) == data[: recorder.offset]
    if recorder.states:
        state = Digest.import_state(recorder.states[-1])
        assert state.hexdigest() == hashlib.sha256(data[: recorder.offset]).hexdigest()
    else:
        assert recorder.offset == 0


@pytest.mark.parametrize("wrong_at", [1000, CHUNK - 1000, 2 * CHUNK + 1000, 2 * CHUNK + 100_000])
def test_a_source_that_is_wrong_in_form_leaves_nothing_of_the_chunk_it_was_in(setup: Setup, wrong_at: int) -> None:
    driver = setup.driver()
    data = some_bytes(wrong_at)
    recorder = Recorder()
    with pytest.raises(BadRequest):
        driver.write_stream(Pieces(data, error=BadRequest("bad")), offset=0, digest=Digest("sha256"), record=recorder)
    assert recorder.offset == wrong_at // CHUNK * CHUNK
    assert setup.pool.in_use == 0


def test_a_chunk_that_fails_in_the_middle_ends_the_stream_with_the_chunks_before_it_recorded(setup: Setup) -> None:
    driver = setup.driver()
    seen: list[int] = []
    failing_from = 4
    for store in setup.cluster.stores.values():

        def before_put(fid: int) -> None:
            seen.append(fid)
            if fid >= failing_from:
                raise Unavailable("disk gone")

        store.before_put = before_put
    recorder = Recorder()
    source = Pieces(some_bytes(40 * CHUNK))
    with pytest.raises(NoGroupAvailable):
        driver.write_stream(source, offset=0, digest=Digest("sha256"), record=recorder)
    assert {f.fid for f in recorder.fragments} <= {1, 2, 3}
    assert source.given < 40 * CHUNK  # the rest of the body is not even received
    assert read(driver, recorder.fragments, 0, recorder.offset) == some_bytes(40 * CHUNK)[: recorder.offset]


def test_when_recording_fails_its_error_is_raised_and_nothing_further_is_recorded(setup: Setup) -> None:
    driver = setup.driver(record_bytes=CHUNK)
    calls = []

    def record(progress: WriteProgress) -> None:
        calls.append(progress.offset)
        if len(calls) == 2:
            raise UploadConflict("somebody else", offset=0)

    with pytest.raises(UploadConflict):
        driver.write_stream(Pieces(some_bytes(20 * CHUNK)), offset=0, digest=Digest("sha256"), record=record)
    assert len(calls) == 2


def test_chunks_that_were_never_to_be_recorded_are_deleted_and_those_of_a_failed_record_are_not(setup: Setup) -> None:
    driver = setup.driver(record_bytes=4 * CHUNK, write_window=4)
    offered: list[int] = []

    def record(progress: WriteProgress) -> None:
        offered.extend(fragment.fid for fragment in progress.fragments)
        raise UploadConflict("somebody else was faster", offset=7)

    with pytest.raises(UploadConflict):
        driver.write_stream(Pieces(some_bytes(20 * CHUNK)), offset=0, digest=Digest("sha256"), record=record)
    assert len(offered) >= 4
    wait_until(lambda: setup.cluster.all_fids() == set(offered), 20.0)


def test_chunks_behind_one_that_failed_are_deleted(setup: Setup) -> None:
    def fail_the_first(fid: int) -> None:
        if fid == 1:
            wait_until(lambda: 2 in setup.cluster.all_fids(), 20.0)
            raise StorageFull("no space left")

    for store in setup.cluster.stores.values():
        store.before_put = fail_the_first
    recorder = Recorder()
    with pytest.raises(StorageFull):
        setup.driver().write_stream(
            Pieces(some_bytes(2 * CHUNK + 1)), offset=0, digest=Digest("sha256"), record=recorder
        )
    # Over HTTP any of the chunks may be the one with the first fid.
    wait_until(lambda: setup.cluster.all_fids() == {fragment.fid for fragment in recorder.fragments}, 20.0)


def test_when_the_source_is_cut_and_recording_fails_too_the_recording_error_is_told(setup: Setup) -> None:
    def record(progress: WriteProgress) -> None:
        raise UploadConflict("somebody else", offset=0)

    source = Pieces(some_bytes(2 * CHUNK), error=TruncatedBody("cut"))
    with pytest.raises(UploadConflict):
        setup.driver().write_stream(source, offset=0, digest=Digest("sha256"), record=record)


# -- concurrency ---------------------------------------------------------------------------------------------------
def test_a_chunk_being_written_is_done_only_after_the_next_one_has_begun(setup: Setup) -> None:
    """Chunk k ends only when k + 1 has begun: with one chunk at a time this would never end."""
    begun = [threading.Event() for _ in range(12)]
    setup.cluster.stores["g1m1"].before_put = lambda fid: _meet(begun, fid)
    fragments = write(setup.driver(), some_bytes(8 * CHUNK + 5))
    assert len(fragments) == 9


def test_a_piece_being_read_is_done_only_after_the_next_one_has_begun(setup: Setup) -> None:
    driver = setup.driver()
    data = some_bytes(8 * CHUNK)
    fragments = write(driver, data)
    order = {fragment.fid: index + 1 for index, fragment in enumerate(fragments)}
    begun = [threading.Event() for _ in range(12)]
    for store in setup.cluster.stores.values():
        store.before_read = lambda fid: _meet(begun, order[fid], last=8)
    assert read(driver, fragments, 0, len(data)) == data


def _meet(begun: list[threading.Event], number: int, last: int = 9) -> None:
    begun[number].set()
    if number < last:
        assert begun[number + 1].wait(10), f"{number + 1} did not begin while {number} was in flight"


def test_memory_stays_within_the_pool_with_fifty_streams_at_once(setup: Setup) -> None:
    pool = setup.pool
    driver = setup.driver()
    data = some_bytes(3 * CHUNK + 999)
    most = [0]
    errors: list[BaseException] = []

    def go_around(seed: int) -> None:
        try:
            mine = some_bytes(1000, seed) + data
            fragments = write(driver, mine)
            got = hashlib.sha256()
            for view in driver.read_stream(fragments, 0, len(mine)):
                most[0] = max(most[0], pool.in_use)
                got.update(view)
            assert got.digest() == hashlib.sha256(mine).digest()
        except BaseException as error:  # noqa: BLE001 - shown by the test's own thread
            errors.append(error)

    threads = [threading.Thread(target=go_around, args=(seed,)) for seed in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not errors, errors[0]
    assert 0 < most[0] <= pool.count_max


@pytest.mark.parametrize("buffers", [1, 2])
def test_the_smallest_pools_do_not_deadlock_streams_in_both_directions(setup: Setup, buffers: int) -> None:
    setup.pool = BufferPool(CHUNK, buffers)
    test_memory_stays_within_the_pool_with_fifty_streams_at_once(setup)
    assert setup.pool.in_use == 0


def test_a_stream_goes_on_without_reading_ahead_when_others_take_every_buffer_that_comes_free(setup: Setup) -> None:
    class Contended(BufferPool):
        def acquire(self, timeout_s: float) -> memoryview:
            if timeout_s == 0.0:
                raise Overloaded("somebody was faster")
            return super().acquire(timeout_s)

    data = some_bytes(5 * CHUNK)
    fragments = write(setup.driver(), data)
    setup.pool = Contended(CHUNK, 16)
    assert read(setup.driver(), fragments, 0, len(data)) == data
    assert setup.pool.in_use == 0


def test_closing_a_stream_early_gives_everything_back(setup: Setup) -> None:
    driver = setup.driver()
    data = some_bytes(8 * CHUNK)
    fragments = write(driver, data)
    for taken in range(4):
        stream = driver.read_stream(fragments, 0, len(data))
        for _ in range(taken):
            next(stream)
        stream.close()
        assert setup.pool.in_use == 0


def test_an_error_in_the_middle_of_reading_comes_before_the_damaged_bytes(setup: Setup) -> None:
    driver = setup.driver()
    data = some_bytes(6 * CHUNK)
    fragments = write(driver, data)
    for store in setup.cluster.stores.values():
        store.inner.delete(fragments[3].fid)
    stream = driver.read_stream(fragments, 0, len(data))
    assert b"".join(bytes(next(stream)) for _ in range(3)) == data[: 3 * CHUNK]
    with pytest.raises((ChunkNotFound, ChunkUnreadable)):
        next(stream)
    assert setup.pool.in_use == 0


def test_deleted_fragments_are_gone_and_those_that_could_not_be_deleted_are_told(setup: Setup) -> None:
    driver = setup.driver()
    fragments = write(driver, some_bytes(3 * CHUNK))
    setup.cluster.stores["g1m2"].kill()
    assert driver.delete_fragments(fragments) == fragments
    setup.cluster.stores["g1m2"].revive()
    assert driver.delete_fragments(fragments) == []
    assert driver.delete_fragments(fragments) == []
    assert setup.cluster.all_fids() == set()
    with pytest.raises(ChunkNotFound):
        read(driver, fragments, 0, 10)
