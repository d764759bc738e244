"""Streams share the threads that hash, and every piece is hashed in its stream's order."""

from __future__ import annotations

import hashlib
import threading
from concurrent.futures import ThreadPoolExecutor

from native.digest import Digest
from registry_driver.hashing import HashLane

PIECES_MAX = 100


def test_a_stream_that_never_pauses_does_not_keep_others_from_being_hashed() -> None:
    begin, ended = threading.Event(), threading.Event()
    order: list[str] = []
    piece = memoryview(bytes(1000))
    with ThreadPoolExecutor(1) as executor:
        executor.submit(begin.wait, 10)
        fast, other = HashLane(Digest("sha256"), executor), HashLane(Digest("sha256"), executor)

        def one_more(_: bytes | None, error: BaseException | None) -> None:
            assert error is None
            order.append("fast")
            if len(order) < PIECES_MAX:
                fast.add(piece, one_more)
            else:
                ended.set()

        fast.add(piece, one_more)
        other.add(piece, lambda _state, _error: order.append("other"))
        begin.set()
        assert ended.wait(10)
    assert order.index("other") <= 2


def test_pieces_that_were_added_are_hashed_in_order_although_the_executor_is_closing() -> None:
    begin = threading.Event()
    states: list[bytes | None] = []
    pieces = [bytes([number]) * 1000 for number in range(20)]
    executor = ThreadPoolExecutor(1)
    executor.submit(begin.wait, 10)
    lane = HashLane(Digest("sha256"), executor)
    for piece in pieces:
        lane.add(memoryview(piece), lambda state, _error: states.append(state))
    executor.shutdown(wait=False)
    begin.set()
    executor.shutdown(wait=True)
    assert len(states) == len(pieces)
    for count, state in enumerate(states, 1):
        assert state is not None
        assert Digest.import_state(state).hexdigest() == hashlib.sha256(b"".join(pieces[:count])).hexdigest()
