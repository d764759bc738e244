"""Gates and caches by themselves."""

from __future__ import annotations

import threading

import pytest

from registry_driver.admission import AdmissionLimits, Gate, GateLimits
from registry_driver.caches import WeighedCache
from wire.errors import Overloaded


def test_a_gate_lets_its_number_in_and_the_next_wait_for_a_place() -> None:
    gate = Gate("things", GateLimits(running_max=1, waiting_max=1, wait_s=10.0))
    first = gate.enter()
    entered = threading.Event()

    def wait() -> None:
        held = gate.enter()
        entered.set()
        held.release()

    waiter = threading.Thread(target=wait)
    waiter.start()
    assert not entered.wait(0.05)
    first.release()
    assert entered.wait(5.0)
    waiter.join(5.0)
    gate.enter().release()


def test_who_waits_too_long_is_told_when_to_come_again() -> None:
    gate = Gate("things", GateLimits(running_max=1, waiting_max=1, wait_s=0.01))
    held = gate.enter()
    for _ in range(3):
        with pytest.raises(Overloaded) as caught:
            gate.enter()
        assert caught.value.retry_after_s >= 1
    held.release()
    gate.enter().release()


def test_no_more_wait_than_may_wait() -> None:
    gate = Gate("things", GateLimits(running_max=1, waiting_max=0, wait_s=60.0))
    held = gate.enter()
    with pytest.raises(Overloaded):
        gate.enter()
    held.release()


def test_a_pass_counts_once_however_often_it_is_given_back() -> None:
    gate = Gate("things", GateLimits(running_max=1, waiting_max=0))
    held = gate.enter()
    held.release()
    held.release()
    gate.enter()
    with pytest.raises(Overloaded):
        gate.enter()


@pytest.mark.parametrize("threads", [8, 16, 32, 96, 256])
def test_gates_leave_threads_for_refusals(threads: int) -> None:
    limits = AdmissionLimits.within(threads, uploads_max=32, downloads_max=32, requests_max=64, waiting_max=1000)
    assert limits.threads_max < threads
    assert min(gate.running_max for gate in (limits.uploads, limits.downloads, limits.small, limits.manifests)) >= 1


def test_gates_are_not_wider_than_wished_for() -> None:
    limits = AdmissionLimits.within(1024, uploads_max=3, downloads_max=5, requests_max=7, waiting_max=9)
    assert (limits.uploads.running_max, limits.downloads.running_max, limits.small.running_max) == (3, 5, 7)
    assert (limits.uploads.waiting_max, limits.downloads.waiting_max, limits.small.waiting_max) == (9, 9, 9)


def test_a_cache_keeps_what_was_used_last_within_its_weight() -> None:
    cache: WeighedCache[int, bytes] = WeighedCache(10, len)
    cache.put(1, b"x" * 4)
    cache.put(2, b"x" * 4)
    assert cache.get(1) is not None
    cache.put(3, b"x" * 4)
    assert (cache.get(1), cache.get(2), cache.get(3)) == (b"x" * 4, None, b"x" * 4)
    assert cache.weight == 8


def test_a_value_heavier_than_the_cache_pushes_nothing_out() -> None:
    cache: WeighedCache[int, bytes] = WeighedCache(10, len)
    cache.put(1, b"x" * 10)
    cache.put(2, b"x" * 11)
    assert cache.get(1) is not None
    assert cache.get(2) is None


def test_putting_a_key_again_does_not_count_it_twice() -> None:
    cache: WeighedCache[int, bytes] = WeighedCache(10, len)
    for _ in range(5):
        cache.put(1, b"x" * 6)
    assert cache.weight == 6
    cache.drop(1)
    assert cache.weight == 0
