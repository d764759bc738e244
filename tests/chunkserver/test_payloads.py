"""Memory for payloads stays within its bound, whatever the number and the sizes of requests."""

from __future__ import annotations

import gc
import mmap
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from chunkserver.interface import CHUNK_BYTES_MAX
from chunkserver.payloads import PayloadMemory
from tests.wire.serving import wait_until
from wire.buffers import IdleTrim
from wire.errors import Overloaded

MIB = 1024 * 1024


@pytest.mark.parametrize("length", [0, 1, 64 * 1024, 64 * 1024 + 1, 4 * MIB, 4 * MIB + 1, CHUNK_BYTES_MAX])
def test_memory_has_the_length_asked_for(length: int) -> None:
    memory = PayloadMemory(CHUNK_BYTES_MAX)
    payload = memory.lend(length)
    assert payload.view.nbytes == length
    payload.view[:] = b"\x5a" * length
    assert memory.lent_bytes >= length
    payload.release()
    payload.release()
    assert memory.lent_bytes == 0


def test_what_does_not_fit_waits_and_then_is_refused() -> None:
    memory = PayloadMemory(CHUNK_BYTES_MAX, wait_s=0.1)
    held = [memory.lend(4 * MIB) for _ in range(16)]
    with pytest.raises(Overloaded) as caught:
        memory.lend(1)
    assert caught.value.retry_after_s >= 1
    held.pop().release()
    memory.lend(1).release()
    for payload in held:
        payload.release()
    assert memory.lent_bytes == 0


def test_a_large_payload_is_not_starved_by_small_ones() -> None:
    memory = PayloadMemory(CHUNK_BYTES_MAX, wait_s=30)
    first = memory.lend(CHUNK_BYTES_MAX // 2)
    order: list[str] = []

    def take(name: str, length: int) -> None:
        payload = memory.lend(length)
        order.append(name)
        payload.release()

    large = threading.Thread(target=take, args=("large", CHUNK_BYTES_MAX))
    large.start()
    wait_until(lambda: len(memory._queue) == 1, 10, "the large one in the queue")
    small = threading.Thread(target=take, args=("small", 1))
    small.start()
    wait_until(lambda: len(memory._queue) == 2, 10, "the small one behind it")
    assert order == []
    first.release()
    large.join(10)
    small.join(10)
    assert order == ["large", "small"]


def test_many_threads_never_hold_more_than_the_bound() -> None:
    memory = PayloadMemory(CHUNK_BYTES_MAX, wait_s=30)
    highest: list[int] = []

    def work(number: int) -> None:
        payload = memory.lend((number * 1_234_567) % (9 * MIB))
        highest.append(memory.lent_bytes)
        payload.release()

    with ThreadPoolExecutor(24) as pool:
        list(pool.map(work, range(600)))
    assert max(highest) <= CHUNK_BYTES_MAX
    assert memory.lent_bytes == 0


def test_memory_of_an_answer_that_was_never_sent_comes_back() -> None:
    memory = PayloadMemory(CHUNK_BYTES_MAX)
    payload = memory.lend(4 * MIB)
    del payload
    gc.collect()
    memory.trim(60.0)
    assert memory.lent_bytes == 0


def test_lost_memory_that_is_found_inside_the_pool_hangs_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = PayloadMemory(CHUNK_BYTES_MAX)
    payload = memory.lend(4 * MIB)
    cycle: list[object] = [payload]
    cycle.append(cycle)
    del payload, cycle
    lend = memory._pool._lend

    def lend_while_the_collector_runs(pages: mmap.mmap) -> memoryview:
        gc.collect()  # any allocation there may start it
        return lend(pages)

    monkeypatch.setattr(memory._pool, "_lend", lend_while_the_collector_runs)
    lender = threading.Thread(target=lambda: memory.lend(4 * MIB).release(), daemon=True)
    lender.start()
    lender.join(10)
    assert not lender.is_alive()
    memory.trim(60.0)
    assert memory.lent_bytes == 0


def test_idle_memory_goes_back_to_the_system() -> None:
    memory = PayloadMemory(CHUNK_BYTES_MAX)
    trim = IdleTrim(memory, every_s=0.02, idle_s=0.0)
    memory.lend(4 * MIB).release()
    assert memory._pool.allocated == 1
    trim.start()
    wait_until(lambda: memory._pool.allocated == 0, 10, "the pool's memory")
    trim.close()
