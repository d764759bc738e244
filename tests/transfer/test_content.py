"""Digests that are computed beside the transfer."""

from __future__ import annotations

import hashlib
import threading

import pytest

from speedy.transfer import content
from speedy.transfer.content import RunningDigest
from speedy.transfer.errors import TransferError


def test_a_running_digest_is_that_of_all_pieces() -> None:
    pieces = [bytes([number]) * 1000 for number in range(20)]
    with RunningDigest("sha256") as running:
        for piece in pieces:
            running.update(piece)
        assert running.digest() == f"sha256:{hashlib.sha256(b''.join(pieces)).hexdigest()}"


def test_a_digest_that_does_not_get_on_is_waited_for_with_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    began, goes_on = threading.Event(), threading.Event()

    class Stuck:
        def update(self, _piece: bytes) -> None:
            began.set()
            goes_on.wait(60)

        def hexdigest(self) -> str:
            raise AssertionError("a digest of some of the bytes")

    monkeypatch.setattr(content.hashlib, "new", lambda _algorithm: Stuck())
    with RunningDigest("sha256", timeout_s=0.05) as running:
        running.update(b"x")
        with pytest.raises(TransferError, match=r"did not get on for 0\.05 s"):
            running.digest()
        assert began.wait(60)
        for _ in range(3):  # and the end that digest() asked for: the queue is full
            running.update(b"x")
        with pytest.raises(TransferError, match="did not get on"):
            running.update(b"x")
    goes_on.set()
