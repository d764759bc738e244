"""One stream on its way into the store: cut into chunks, hashed in order, stored several at a time, recorded from the
front.

    calling thread   readinto ──> buffer full ──> next buffer ...        record(contiguous prefix)
    hash lane                     update, export_state   (in order, one task)
    chunk threads                 crc32c, put_chunk      (a window of them, ending in any order)

A chunk counts as done when it is stored and the digest has passed its end; its buffer goes back to the pool then.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from imageserver.interface import ChunkRef, ImageStore
from metaserver.interface import Fragment
from native.checksum import crc32c
from native.digest import Digest
from registry_driver.driver import ByteSource, WriteProgress
from registry_driver.hashing import HashLane
from wire.buffers import BufferPool
from wire.context import run_in_context
from wire.errors import BodyTimeout, DeadlineExceeded, SpeedyError, TruncatedBody, Unavailable

if TYPE_CHECKING:
    from registry_driver.chunked import DriverLimits

log = logging.getLogger("speedy.driver")

#: every chunk's first bytes are received into a small buffer of the stream's own: a tiny body never needs a large
#: one, a client that is slow to begin a chunk holds none, and a body that ends with a full chunk asks for none to
#: learn that
SMALL_BYTES = 64 * 1024

#: the sender went away or fell silent; what it sent before is good
STOPPED = (TruncatedBody, BodyTimeout)

#: up to here hashing takes less time (0.1 ms) than is worth handing it to another thread
INLINE_HASH_BYTES = 256 * 1024


class _Chunk:
    """A piece of the stream in flight. `buffer` (of the pool) is None when the bytes lie in the stream's small
    buffer."""

    __slots__ = ("buffer", "error", "length", "offset", "parts_left", "payload", "ref", "state")

    def __init__(self, offset: int, payload: memoryview, buffer: memoryview | None) -> None:
        self.offset = offset
        self.length = payload.nbytes
        self.payload = payload
        self.buffer = buffer
        self.parts_left = 2  # hashing and storing
        self.state: bytes | None = None
        self.ref: ChunkRef | None = None
        self.error: BaseException | None = None


class StreamWriter:
    """Writes one stream, once. Everything but `_store` and `_hashed` runs in the calling thread."""

    def __init__(
        self,
        images: ImageStore,
        pool: BufferPool,
        limits: DriverLimits,
        executor: Executor,
        hashers: Executor,
        *,
        offset: int,
        digest: Digest,
        record: Callable[[WriteProgress], None],
    ) -> None:
        self._images = images
        self._pool = pool
        self._limits = limits
        self._executor = executor
        self._digest = digest
        self._record = record
        self._lane = HashLane(digest, hashers)
        self._changed = threading.Condition()
        self._in_flight: deque[_Chunk] = deque()  # in stream order; done ones leave from the front only
        self._unfinished = 0
        self._failure: BaseException | None = None
        self._offset = offset  # where the next chunk begins
        self._filled = 0
        self._source_error: Exception | None = None
        # the contiguous durable prefix, as far as it was not recorded yet
        self._pending: list[Fragment] = []
        self._pending_bytes = 0
        self._durable = offset
        self._state = b""
        self._recorded_at_s = time.monotonic()

    def write(self, source: ByteSource) -> WriteProgress:
        """See StorageDriver.write_stream."""
        try:
            self._cut(source)
            self._wait_for_chunks(unfinished_max=0)
            if self._source_error is not None:
                raise self._source_error
        except Exception as error:
            if self._record is _refuse_to_record:
                self._failure = self._failure or error  # chunks that no thread has begun are not stored any more
                self._settle()
            else:
                self._settle()
                self._collect()
                if self._pending:
                    self._record_pending()
            raise
        finally:
            self._delete_rest()
            self._source_error = None  # it refers to this frame: no cycle may keep the buffers' views alive
        self._collect()
        assert not self._in_flight
        return self._progress()

    # -- cutting ---------------------------------------------------------------------------------------------------
    def _cut(self, source: ByteSource) -> None:
        small = memoryview(bytearray(min(SMALL_BYTES, self._limits.chunk_bytes)))
        ended = False
        while not ended:
            self._filled = 0
            if self._fill(source, small):
                if self._filled and self._is_worth_keeping():
                    self._send(small[: self._filled], None, last=True)
                return
            self._wait_for_chunks(unfinished_max=self._limits.write_window - 1)
            buffer = self._pool.acquire(self._limits.buffer_wait_s)
            try:
                room = buffer[: self._limits.chunk_bytes]
                room[: self._filled] = small
                ended = self._fill(source, room)
            except BaseException:
                self._pool.release(buffer)
                raise
            if not self._is_worth_keeping():
                self._pool.release(buffer)
                return
            self._send(room[: self._filled], buffer, last=ended)

    def _is_worth_keeping(self) -> bool:
        """What a sender that stopped had sent is kept to the byte: it may be all that a slow line got across. A body
        that is wrong in form adds nothing but what was stored before that was seen."""
        return self._source_error is None or isinstance(self._source_error, STOPPED)

    def _fill(self, source: ByteSource, room: memoryview) -> bool:
        """Receive until `room` is full (False) or the source is at its end or broken (True)."""
        while self._filled < room.nbytes:
            try:
                received = source.readinto(room[self._filled :])
            except Exception as error:  # noqa: BLE001 - raised by write() once what came before it is safe
                self._source_error = error
                return True
            if received == 0:
                return True
            self._filled += received
            self._record_if_due()
        return False

    def _send(self, payload: memoryview, buffer: memoryview | None, *, last: bool) -> None:
        """Set hashing and storing of a chunk going; the last one is stored in this thread, which has nothing else to
        do."""
        self._collect()
        chunk = _Chunk(self._offset, payload, buffer)
        self._offset += chunk.length
        with self._changed:
            alone = not self._in_flight
            self._in_flight.append(chunk)
            self._unfinished += 1
        if last and alone and chunk.length <= INLINE_HASH_BYTES:
            self._digest.update(payload)
            self._hashed(chunk, self._digest.export_state(), None)
        else:
            try:
                self._lane.add(payload, partial(self._hashed, chunk))
            except RuntimeError as error:
                self._hashed(chunk, None, Unavailable(f"no thread takes the chunk: {error}"))
        if last:
            self._store(chunk)
            return
        try:
            self._executor.submit(run_in_context(self._store), chunk)
        except RuntimeError as error:
            self._part_done(chunk, Unavailable(f"no thread takes the chunk: {error}"))

    # -- the two parts of a chunk, in their threads ----------------------------------------------------------------
    def _store(self, chunk: _Chunk) -> None:
        if self._failure is not None:  # nothing behind a failed chunk will ever be recorded
            self._part_done(chunk, self._failure)
            return
        try:
            chunk.ref = self._images.put_chunk(chunk.payload, crc32c(chunk.payload))
        except BaseException as error:  # noqa: BLE001 - raised again in the stream's own thread
            self._part_done(chunk, error)
        else:
            self._part_done(chunk, None)

    def _hashed(self, chunk: _Chunk, state: bytes | None, error: BaseException | None) -> None:
        chunk.state = state
        self._part_done(chunk, error)

    def _part_done(self, chunk: _Chunk, error: BaseException | None) -> None:
        with self._changed:
            if error is not None:
                chunk.error = chunk.error or error
                self._failure = self._failure or error
            chunk.parts_left -= 1
            if chunk.parts_left:
                return
        if chunk.buffer is not None:
            self._pool.release(chunk.buffer)  # before anybody learns of the end: who waited finds the buffer free
        with self._changed:
            self._unfinished -= 1
            self._changed.notify_all()

    # -- waiting and recording -------------------------------------------------------------------------------------
    def _wait_for_chunks(self, unfinished_max: int) -> None:
        """Return when at most so many chunks are unfinished and not too much waits behind the first one of them; raise
        the first failure of any chunk."""
        give_up_s = time.monotonic() + self._limits.chunk_wait_s
        before = self._unfinished
        while True:
            with self._changed:
                if self._failure is None and (self._unfinished > unfinished_max or self._too_far_ahead()):
                    self._changed.wait(max(0.0, min(self._limits.record_s, give_up_s - time.monotonic())))
                unfinished = self._unfinished
            if self._failure is not None:
                raise self._failure
            self._collect()
            if unfinished <= unfinished_max and not self._too_far_ahead():
                return
            self._record_if_due()
            if unfinished < before:
                give_up_s, before = time.monotonic() + self._limits.chunk_wait_s, unfinished
            elif time.monotonic() >= give_up_s:
                raise DeadlineExceeded(f"{unfinished} chunks were not stored within {self._limits.chunk_wait_s:g} s")

    def _too_far_ahead(self) -> bool:
        """One slow chunk must not let the rest run away: what is not recorded is sent again after a crash, and that is
        at most the recording interval and the window."""
        ahead_max_bytes = self._limits.record_bytes + self._limits.write_window * self._limits.chunk_bytes
        return bool(self._in_flight) and self._offset - self._durable >= ahead_max_bytes

    def _record_if_due(self) -> None:
        if self._in_flight:
            if self._failure is not None:
                raise self._failure
            self._collect()
        if self._pending and (
            self._pending_bytes >= self._limits.record_bytes
            or time.monotonic() - self._recorded_at_s >= self._limits.record_s
        ):
            self._record_pending()

    def _record_pending(self) -> None:
        progress = self._progress()
        # Before the call: whatever it raises, these fragments are not offered a second time.
        self._pending, self._pending_bytes = [], 0
        try:
            self._record(progress)
        except BaseException:
            self._record = _refuse_to_record
            raise
        self._recorded_at_s = time.monotonic()

    def _settle(self) -> None:
        """After a failure: let the chunks in flight end, bounded."""
        give_up_s = time.monotonic() + self._limits.chunk_wait_s
        with self._changed:
            while self._unfinished:
                left_s = give_up_s - time.monotonic()
                if left_s <= 0:
                    log.warning("%d chunks are still in flight after their stream failed", self._unfinished)
                    return
                self._changed.wait(left_s)

    def _delete_rest(self) -> None:
        """Chunks that were stored behind what failed were never offered to be recorded: no row names them, and none
        will. Deleted beside, because whoever waits for the error must not wait for a sick ChunkServer once more; what
        stays behind all the same is the sweeper's."""
        with self._changed:
            refs = [chunk.ref for chunk in self._in_flight if chunk.ref is not None]
        if refs:
            with suppress(RuntimeError):  # the driver is closing
                self._executor.submit(run_in_context(self._delete), refs)

    def _delete(self, refs: list[ChunkRef]) -> None:
        try:
            self._images.delete_chunks(refs)
        except SpeedyError as error:
            log.warning("%d chunks of a stream that failed could not be deleted: %s", len(refs), error)

    def _collect(self) -> None:
        """Move chunks that are done from the front of the window to the durable prefix."""
        with self._changed:
            while self._in_flight:
                chunk = self._in_flight[0]
                if chunk.parts_left or chunk.error is not None:
                    return
                self._in_flight.popleft()
                assert chunk.ref is not None
                assert chunk.state is not None
                assert chunk.offset == self._durable
                ref = chunk.ref
                self._pending.append(Fragment(chunk.offset, chunk.length, ref.fid, ref.group_id, ref.crc32c))
                self._pending_bytes += chunk.length
                self._durable += chunk.length
                self._state = chunk.state

    def _progress(self) -> WriteProgress:
        return WriteProgress(tuple(self._pending), self._durable, self._state or self._digest.export_state())


def _refuse_to_record(progress: WriteProgress) -> None:
    raise AssertionError(f"recording failed before, nothing further may be recorded (offset {progress.offset})")
