"""The ChunkServer's own scrubbing: when it begins, how it is stopped, what it tells."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from chunkserver.core import LocalChunkStore
from chunkserver.scrubbing import RETRY_S, Scrubber, ScrubLimits
from native.checksum import crc32c
from native.engine import Engine
from native.values import ScrubProgress
from tests.chunkserver.rooms import engine_options
from tests.chunkserver.test_data_directory import flip_a_byte_of
from tests.wire.serving import wait_until
from wire.errors import BadRequest, ChunkUnreadable

WAIT_S = 60.0
FAST = ScrubLimits(bytes_s=1 << 30, every_s=1e9, first_after_s=0.0)

#: enough for the superblocks at once; a chunk of half a megabyte then has to be waited for, much longer than a test
SLOW = 10_000

OpenStore = Callable[..., LocalChunkStore]


@pytest.fixture
def open_store(tmp_path: Path) -> Iterator[OpenStore]:
    opened: list[LocalChunkStore] = []

    def open_one(limits: ScrubLimits) -> LocalChunkStore:
        store = LocalChunkStore.open(tmp_path / "data", engine_options(), server_id="cs-1", scrub=limits)
        opened.append(store)
        return store

    yield open_one
    for store in opened:
        with suppress(Exception):
            store.close()


def put(store: LocalChunkStore, fid: int, length: int = 50_000) -> bytes:
    payload = os.urandom(length)
    store.put(fid, payload, crc32c(payload))
    return payload


def round_has_ended(store: LocalChunkStore, number: int) -> Callable[[], bool]:
    return lambda: store.scrub_status().rounds >= number


def test_a_round_begins_by_itself_and_the_next_only_when_its_time_has_come(open_store: OpenStore) -> None:
    # The first waits for the first chunk: an empty store gets no file for it. It is looked for once a minute, and at
    # every start.
    store = open_store(FAST)
    put(store, 1)
    store.close()
    store = open_store(FAST)
    wait_until(round_has_ended(store, 1), WAIT_S, "the first round")
    status = store.scrub_status()
    assert (status.state, status.round, status.checked_chunks) == ("idle", 1, 1)
    store.close()
    store = open_store(FAST)  # not due for 30 years, also after a restart
    assert store.scrub_status().rounds == 1
    assert store.scrub_status().state == "idle"
    store.close()
    store = open_store(replace(FAST, every_s=0.0))
    wait_until(round_has_ended(store, 3), WAIT_S, "a second and a third round")


def test_nothing_is_read_before_the_rest_after_a_start_is_over(open_store: OpenStore) -> None:
    store = open_store(replace(FAST, first_after_s=1e6))
    put(store, 1)
    store.close()
    store = open_store(replace(FAST, first_after_s=1e6))
    assert store.scrub_status().round == 0
    store.start_scrub()  # whoever asks does not wait for that
    wait_until(round_has_ended(store, 1), WAIT_S, "the round")


def test_a_server_that_does_not_scrub_by_itself_does_when_it_is_told_a_rate(open_store: OpenStore) -> None:
    store = open_store(replace(FAST, bytes_s=0))
    put(store, 1)
    assert store.scrub_status().state == "off"
    with pytest.raises(BadRequest, match="scrub_bytes_s"):
        store.start_scrub()
    store.start_scrub(bytes_s=1 << 30)
    wait_until(round_has_ended(store, 1), WAIT_S, "the round")
    wait_until(lambda: store.scrub_status().state == "off", WAIT_S, "the end of the wish")


def test_a_stopped_round_stays_where_it_is_and_goes_on_from_there(open_store: OpenStore) -> None:
    store = open_store(replace(FAST, first_after_s=1e6))
    for fid in range(1, 9):
        put(store, fid, 500_000)
    store.start_scrub(bytes_s=SLOW)
    wait_until(lambda: store.scrub_status().checked_chunks > 0, WAIT_S, "the first chunk")
    assert store.scrub_status().state == "running"
    stopped = store.stop_scrub()
    assert stopped.state == "paused"
    assert 0 < stopped.checked_chunks < 8
    assert store.scrub_status() == stopped
    store.close()
    store = open_store(replace(FAST, first_after_s=1e6))
    again = store.scrub_status()
    assert (again.round, again.offset, again.checked_chunks) == (1, stopped.offset, stopped.checked_chunks)
    store.start_scrub()
    wait_until(round_has_ended(store, 1), WAIT_S, "the rest of the round")
    assert store.scrub_status().checked_chunks == 8


def test_a_round_of_its_own_begins_anew_when_that_is_asked_for(open_store: OpenStore) -> None:
    store = open_store(replace(FAST, first_after_s=1e6))
    put(store, 1, 500_000)
    put(store, 2, 500_000)
    store.start_scrub(bytes_s=SLOW)
    wait_until(lambda: store.scrub_status().checked_chunks == 1, WAIT_S, "the first chunk")
    assert store.start_scrub(bytes_s=SLOW).round == 1
    assert store.start_scrub(fresh=True, bytes_s=1 << 30).round == 2
    wait_until(round_has_ended(store, 2), WAIT_S, "the second round")


class InTheMidst(Engine):
    """Somebody asks for something at the end of the first step after which there is a long wait."""

    __slots__ = ("asks",)
    asks: list[Callable[[], None]]

    def scrub_step(self, bytes_max: int, bytes_s: int = 0) -> ScrubProgress:
        told = super().scrub_step(bytes_max, bytes_s)
        if told.wait_s > WAIT_S and self.asks:
            self.asks.pop()()
        return told


def test_what_is_asked_for_during_a_step_does_not_wait_for_the_next(tmp_path: Path) -> None:
    engine = InTheMidst.open(tmp_path, engine_options())
    assert isinstance(engine, InTheMidst)
    scrubber = Scrubber(engine, replace(FAST, first_after_s=1e6))
    engine.asks = [lambda: scrubber.run_now(fresh=True, bytes_s=1 << 30)]
    for fid in (1, 2):
        payload = os.urandom(2_000_000)
        engine.put(fid, payload, crc32c(payload))
    with engine:
        scrubber.run_now(fresh=False, bytes_s=SLOW)
        scrubber.start()
        wait_until(lambda: engine.stat().scrub_rounds == 2, RETRY_S / 3, "the second round")
        scrubber.stop()


def test_closing_does_not_wait_for_the_rate(open_store: OpenStore) -> None:
    store = open_store(replace(FAST, first_after_s=1e6))
    put(store, 1, 500_000)
    put(store, 2, 500_000)
    store.start_scrub(bytes_s=SLOW)
    wait_until(lambda: store.scrub_status().checked_chunks == 1, WAIT_S, "the first chunk")
    began = time.monotonic()
    store.close()
    assert time.monotonic() - began < WAIT_S  # its next step is due in days


def test_what_is_damaged_is_reported_logged_and_gone_when_it_is_put_again(
    open_store: OpenStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = open_store(replace(FAST, first_after_s=1e6))
    payload = put(store, 7)
    put(store, 8)
    flip_a_byte_of(payload, tmp_path / "data")
    with caplog.at_level(logging.INFO, "speedy.chunkserver"):
        for number in (1, 2):
            store.start_scrub(fresh=True)
            wait_until(round_has_ended(store, number), WAIT_S, "the round")
            store.stop_scrub()
    status = store.scrub_status()
    (damage,) = status.damage
    assert (damage.fid, damage.length, status.damaged, status.known_damaged) == (7, len(payload), 1, 1)
    assert "checksum" in damage.what
    wait_until(lambda: "chunk 7 damaged" in caplog.text, WAIT_S, "the line in the log")
    assert caplog.text.count("chunk 7 damaged") == 1  # not once in every round
    with pytest.raises(ChunkUnreadable):
        store.read_into(7, 0, bytearray(len(payload)))
    store.put(7, payload, crc32c(payload))
    assert store.scrub_status().known_damaged == 0
    assert store.scrub_status().damage == ()
