"""Bytes of a blob in a local file, and their digest, computed beside whatever else is done with them."""

from __future__ import annotations

import contextlib
import hashlib
import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol, Self

from speedy.transfer.errors import Damaged, TransferError

PIECE_BYTES: Final = 1 << 20
_PIECES_WAITING_MAX: Final = 4
#: the longest that hashing what waits may take: some MiB, on a machine that is busy or was asleep
_HASHING_TIMEOUT_S: Final = 120.0


@dataclass(frozen=True, slots=True)
class Content:
    """`size` bytes of the file `path` from `start`: a whole file, or a member of a tar."""

    path: Path
    start: int
    size: int

    @classmethod
    def of_file(cls, path: Path) -> Self:
        return cls(path, 0, path.stat().st_size)

    def pieces(self, offset: int = 0, length: int | None = None) -> Iterator[bytes]:
        """`length` bytes from `offset` (default: the rest), 1 MiB at a time. Raises Damaged for a shorter file."""
        left = self.size - offset if length is None else length
        with self.path.open("rb", buffering=0) as file:
            file.seek(self.start + offset)
            while left:
                piece = file.read(min(PIECE_BYTES, left))
                if not piece:
                    raise Damaged(f"{self.path} ended {left} bytes too early")
                left -= len(piece)
                yield piece

    def read(self, bytes_max: int) -> bytes:
        """All of it. Raises Damaged above `bytes_max`."""
        if self.size > bytes_max:
            raise Damaged(f"{self.path}: {self.size} bytes where at most {bytes_max} may be")
        return b"".join(self.pieces())


class Hash(Protocol):
    """What hashlib gives."""

    def update(self, piece: bytes, /) -> None: ...
    def hexdigest(self) -> str: ...


class RunningDigest:
    """A digest that a thread of its own computes while the caller sends or writes the same bytes.

    At most four pieces wait. `update` and `digest` raise TransferError where the thread does not get on. Close it, or
    use `with`.
    """

    def __init__(self, algorithm: str, timeout_s: float = _HASHING_TIMEOUT_S) -> None:
        self._algorithm = algorithm
        self._timeout_s = timeout_s
        self._hash: Hash = hashlib.new(algorithm)
        self._pieces: queue.Queue[bytes | None] = queue.Queue(_PIECES_WAITING_MAX)
        self.position = 0
        self._thread = threading.Thread(target=self._run, name="digest", daemon=True)
        self._thread.start()

    def update(self, piece: bytes) -> None:
        try:
            self._pieces.put(piece, timeout=self._timeout_s)
        except queue.Full:
            raise self._stuck() from None
        self.position += len(piece)

    def digest(self) -> str:
        """Of everything so far ("sha256:..."). Ends the thread: nothing can be added any more."""
        self.close()
        if self._thread.is_alive():
            raise self._stuck()
        return f"{self._algorithm}:{self._hash.hexdigest()}"

    def close(self) -> None:
        """Waits for the thread, but not for ever: one that is stuck ends with the process."""
        if self._thread.is_alive():
            with contextlib.suppress(queue.Full):
                self._pieces.put(None, timeout=self._timeout_s)
                self._thread.join(self._timeout_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _stuck(self) -> TransferError:
        return TransferError(f"computing a digest did not get on for {self._timeout_s:g} s")

    def _run(self) -> None:
        while (piece := self._pieces.get()) is not None:
            self._hash.update(piece)


def digest_of_content(content: Content, algorithm: str, check: Callable[[], None]) -> str:
    """The digest of all of it; `check` is called between pieces and may end it by an exception."""
    running = hashlib.new(algorithm)
    for piece in content.pieces():
        check()
        running.update(piece)
    return f"{algorithm}:{running.hexdigest()}"
