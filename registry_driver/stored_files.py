"""Reading committed files: fragment lists from a cache, bytes from the storage driver, the first of them before
anything is promised."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass

from metaserver.interface import FileStore, Fragment
from registry_driver.caches import WeighedCache
from registry_driver.driver import StorageDriver
from wire.errors import ChunkNotFound, ChunkUnreadable, InternalError


class ByteStream(Iterator[memoryview]):
    """A file's bytes whose first piece has been read and verified: what can fail at once has failed in the constructor.

    Each view is valid until the next one is asked for. Must be closed.
    """

    def __init__(self, source: Generator[memoryview, None, None]) -> None:
        self._source = source
        self._first: memoryview | None = next(source, None)

    def __next__(self) -> memoryview:
        first, self._first = self._first, None
        return next(self._source) if first is None else first

    def close(self) -> None:
        self._first = None
        self._source.close()


@dataclass(frozen=True, slots=True)
class _Wanted:
    """Bytes [offset, end) of a file that has `size`."""

    file_id: int
    size: int
    offset: int
    end: int


class StoredFiles:
    """Thread-safe. Keeps at most `fragments_max` fragments in memory."""

    def __init__(self, meta: FileStore, driver: StorageDriver, fragments_max: int) -> None:
        self._meta = meta
        self._driver = driver
        self._cache: WeighedCache[int, tuple[Fragment, ...]] = WeighedCache(
            fragments_max, lambda fragments: max(1, len(fragments))
        )

    def read(self, file_id: int, size: int, offset: int, length: int) -> ByteStream:
        """The bytes [offset, offset + length) of a committed file of `size` bytes.

        Raises FileNotFound, and what StorageDriver.read_stream raises before its first bytes.
        """
        fragments = self._cache.get(file_id)
        cached = fragments is not None
        if fragments is None:
            fragments = self._load(file_id, size)
        return ByteStream(self._stream(_Wanted(file_id, size, offset, offset + length), fragments, cached))

    def read_all(self, file_id: int, size: int) -> bytes:
        """The whole of a small file."""
        with closing(self.read(file_id, size, 0, size)) as stream:
            # Not join(): it takes all views before it copies the first, and each is gone when the next one comes.
            body = bytearray()
            for view in stream:
                body += view
            return bytes(body)

    def _stream(
        self, wanted: _Wanted, fragments: tuple[Fragment, ...], cached: bool
    ) -> Generator[memoryview, None, None]:
        offset, end = wanted.offset, wanted.end
        while offset < end:
            source = self._driver.read_stream(fragments, offset, end - offset)
            try:
                with closing(source):
                    for view in source:
                        offset += len(view)
                        yield view
                if offset != end:
                    raise InternalError(f"file {wanted.file_id} ended at {offset} instead of {end}")
            except (ChunkNotFound, ChunkUnreadable):
                # A drained group's chunks have moved since the list was cached: ask once more, and go on where this one
                # stopped.
                if not cached:
                    raise
                cached = False
                self._cache.drop(wanted.file_id)
                fresh = self._load(wanted.file_id, wanted.size)
                if fresh == fragments:
                    raise
                fragments = fresh

    def _load(self, file_id: int, size: int) -> tuple[Fragment, ...]:
        fragments = self._meta.fragments(file_id)
        stored = fragments[-1].offset + fragments[-1].length if fragments else 0
        if stored != size:
            raise InternalError(f"the fragments of file {file_id} hold {stored} bytes instead of {size}")
        self._cache.put(file_id, fragments)
        return fragments
