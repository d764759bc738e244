import ctypes
import mmap
import threading
import time

import pytest

from wire.buffers import BufferPool
from wire.errors import Overloaded


def test_buffers_are_page_aligned_writable_and_of_the_asked_size() -> None:
    pool = BufferPool(100_000, 2)
    view = pool.acquire(0)
    assert (len(view), view.readonly, view.itemsize) == (100_000, False, 1)
    assert ctypes.addressof(ctypes.c_char.from_buffer(view)) % mmap.PAGESIZE == 0
    view[:5] = b"hello"


def test_no_more_than_count_max_buffers_are_ever_lent() -> None:
    pool = BufferPool(4096, 3)
    views = [pool.acquire(0) for _ in range(3)]
    assert pool.in_use == 3
    with pytest.raises(Overloaded) as caught:
        pool.acquire(0.05)
    assert caught.value.retry_after_s == 1
    pool.release(views.pop())
    views.append(pool.acquire(0))
    for view in views:
        pool.release(view)
    assert (pool.in_use, pool.allocated) == (0, 3)


def test_waiting_is_first_come_first_served() -> None:
    pool = BufferPool(4096, 1)
    held = pool.acquire(0)
    order: list[int] = []
    done = [threading.Event() for _ in range(4)]

    def wait(number: int) -> None:
        view = pool.acquire(20)
        order.append(number)
        pool.release(view)
        done[number].set()

    for number in range(4):
        threading.Thread(target=wait, args=(number,)).start()
        deadline = time.monotonic() + 20
        while len(pool._waiting) != number + 1:
            assert time.monotonic() < deadline
            time.sleep(0.001)
    pool.release(held)
    assert all(event.wait(20) for event in done)
    assert order == [0, 1, 2, 3]


def test_a_waiter_that_gave_up_takes_nothing() -> None:
    pool = BufferPool(4096, 1)
    held = pool.acquire(0)
    with pytest.raises(Overloaded):
        pool.acquire(0.01)
    pool.release(held)
    assert pool.in_use == 0
    pool.release(pool.acquire(0))


def test_a_second_release_is_a_defect_that_shows() -> None:
    pool = BufferPool(4096, 2)
    view = pool.acquire(0)
    pool.release(view)
    other = pool.acquire(0)
    with pytest.raises(AssertionError):
        pool.release(view)
    pool.release(other)
    with pytest.raises(AssertionError):
        pool.release(memoryview(bytearray(4096)))


def test_idle_memory_is_given_back_and_lent_memory_is_not() -> None:
    pool = BufferPool(4096, 4)
    views = [pool.acquire(0) for _ in range(4)]
    for view in views[:3]:
        pool.release(view)
    assert pool.trim(60) == 0
    assert pool.trim(0) == 3
    assert (pool.in_use, pool.allocated) == (1, 1)
    views[3][0] = 1
    pool.release(views[3])


def test_many_threads_never_share_a_buffer() -> None:
    pool = BufferPool(64, 3)
    faults: list[str] = []

    def work(mark: int) -> None:
        for _ in range(300):
            view = pool.acquire(20)
            view[:] = bytes([mark]) * 64
            time.sleep(0)
            if bytes(view) != bytes([mark]) * 64:
                faults.append("shared")
            pool.release(view)

    threads = [threading.Thread(target=work, args=(mark,)) for mark in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not faults
    assert pool.in_use == 0
    assert pool.allocated <= 3


def test_a_machine_without_memory_for_a_buffer_is_overload_and_costs_no_place() -> None:
    pool = BufferPool(1 << 46, 1)
    for _ in range(2):
        with pytest.raises(Overloaded, match="no memory"):
            pool.acquire(0.0)


def test_where_memory_ends_a_buffer_is_waited_for_like_at_the_end_of_the_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = BufferPool(4096, 3)
    held = pool.acquire(0)
    monkeypatch.setattr("wire.buffers.has_room", lambda _: False)
    with pytest.raises(Overloaded):
        pool.acquire(0.0)
    threading.Timer(0.1, pool.release, (held,)).start()
    pool.release(pool.acquire(10.0))
    assert pool.allocated == 1
