"""Contract of a storage driver: turns a byte stream into stored fragments and back. Names live in the MetaServer, not
here.

Satisfied by registry_driver.chunked.ChunkedDriver (over an ImageStore) and held by
tests/contracts/test_storage_driver.py.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Protocol

from metaserver.interface import Fragment
from native.digest import Digest


class ByteSource(Protocol):
    """Where a stream's bytes come from: a request's body, a file, a test."""

    def readinto(self, buffer: memoryview) -> int:
        """Put up to len(buffer) bytes into `buffer`; their number, 0 at the proper end.

        May give fewer bytes than asked for without being at the end. Raises TruncatedBody when the sender stopped
        before the announced end, and BodyTimeout when it sent nothing for too long.
        """
        ...


@dataclass(frozen=True, slots=True)
class WriteProgress:
    """What became durable since the last report: `fragments` continue the stream without gaps up to byte `offset`;
    `digest_state` (Digest.export_state) covers exactly the first `offset` bytes of the stream."""

    fragments: tuple[Fragment, ...]
    offset: int
    digest_state: bytes


class StorageDriver(Protocol):
    """All methods are thread-safe. Memory per stream is bounded by window x chunk size, over all streams by the
    buffer pool."""

    def write_stream(
        self,
        source: ByteSource,
        *,
        offset: int,
        digest: Digest,
        record: Callable[[WriteProgress], None],
    ) -> WriteProgress:
        """Store everything that `source` gives, as the bytes from `offset` on of a stream whose digest so far is
        `digest`.

        Chunks are cut, hashed and stored while later bytes still arrive. `record` is called in the calling thread
        with each contiguous durable prefix at least every 64 MiB or 1 s while bytes flow, but not for the last part:
        that is returned (possibly without fragments), so that the caller can record it together with closing the
        upload. `digest` is advanced to cover everything returned.

        When the source or a chunk fails, waits (bounded) for chunks in flight, calls `record` with what is
        contiguously durable, and raises the error. When `record` raises, its error is raised and nothing further is
        recorded. Chunks that were never given to `record` are deleted (in the background, best effort); those that it
        was given belong to it, whatever it raised.

        Raises what the source, ImageStore.put_chunk and `record` raise, Overloaded when no buffer comes free in time,
        DeadlineExceeded when a chunk is not stored in time.
        """
        ...

    def read_stream(self, fragments: Sequence[Fragment], offset: int, length: int) -> Generator[memoryview, None, None]:
        """The bytes [offset, offset + length) of the file that `fragments` make, in order, verified.

        Each view is valid until the next one is asked for. Later chunks are fetched meanwhile (bounded read-ahead).
        Closing the generator early gives everything back. Raises RangeNotSatisfiable at once; later, before the damaged
        bytes, what ImageStore.read_chunk_into raises, Overloaded when no buffer comes free in time, and
        DeadlineExceeded.
        """
        ...

    def delete_fragments(self, fragments: Sequence[Fragment]) -> list[Fragment]:
        """Delete the fragments' chunks; those that could not be deleted everywhere."""
        ...
