"""HttpImageStore: an ImageStore behind HTTP, over several ImageServers any of which may die."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from chunkserver.interface import CHUNK_BYTES_MAX, Buffer
from imageserver.interface import ChunkRef
from imageserver.protocol import DELETE_MAX
from native.checksum import crc32c as crc32c_of
from wire.auth import ClusterKey
from wire.errors import (
    ChecksumMismatch,
    ChunkUnreadable,
    DeadlineExceeded,
    InternalError,
    PayloadTooLarge,
    RangeNotSatisfiable,
    SpeedyError,
    TruncatedBody,
    Unavailable,
)
from wire.http import CRC_HEADER, ServiceClient
from wire.pulse import Pulse, is_alone
from wire.values import from_json, to_json

log = logging.getLogger("speedy.imageserver")

T = TypeVar("T")

#: what another ImageServer may answer differently: trouble on the way or inside that server, not in what was asked
OTHERS_MAY_DO_BETTER = (TruncatedBody, ChecksumMismatch, InternalError)


@dataclass(frozen=True, slots=True)
class ClientLimits:
    """`put_timeout_s`: longer than an ImageServer's own put deadline, so that its answer is heard. `attempts_max`:
    servers asked for one call. `total_s`: no server is asked after it, and the last one has what is left of it: less
    than a driver waits for a chunk. `avoid_s`: for how long a server that failed is asked last."""

    connect_timeout_s: float = 1.0
    put_timeout_s: float = 45.0
    read_timeout_s: float = 20.0
    delete_timeout_s: float = 30.0
    check_timeout_s: float = 5.0
    attempts_max: int = 4
    total_s: float = 55.0
    avoid_s: float = 3.0
    connections_max: int = 64


class HttpImageStore:
    """Takes the servers in turn. When one does not answer, or cannot do it, the next one is asked: storing again is
    safe (another fid; the first copy, if there is one, is named by nobody and swept)."""

    def __init__(
        self,
        urls: Sequence[str],
        key: ClusterKey,
        *,
        limits: ClientLimits | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not urls:
            raise ValueError("an HttpImageStore needs the URL of at least one ImageServer")
        self._limits = limits or ClientLimits()
        self._clock = clock
        self._servers = [
            ServiceClient(
                url,
                key,
                connect_timeout_s=self._limits.connect_timeout_s,
                attempts_max=1,  # another server instead of the same one again
                pool_max=self._limits.connections_max,
            )
            for url in urls
        ]
        self._pulses = {
            url: Pulse(url, key, connect_timeout_s=self._limits.connect_timeout_s)
            for url in (server.base_url for server in self._servers)
        }
        self._avoided_until_s: dict[str, float] = {}
        self._lock = threading.Lock()
        self._turn = 0

    def put_chunk(self, payload: Buffer, crc32c: int) -> ChunkRef:
        length = memoryview(payload).nbytes
        if length > CHUNK_BYTES_MAX:
            raise PayloadTooLarge(f"a chunk of {length} bytes, at most {CHUNK_BYTES_MAX}", limit=CHUNK_BYTES_MAX)

        def put(server: ServiceClient, timeout_s: float) -> ChunkRef:
            try:
                answer = server.upload(
                    "PUT",
                    "/v1/chunks",
                    payload,
                    headers={CRC_HEADER: f"{crc32c:08x}"},
                    read_timeout_s=timeout_s,
                )
            except ChecksumMismatch as error:
                if crc32c_of(payload) != crc32c:
                    raise _Final(error) from error
                raise  # right here, wrong there: it was damaged on the way
            return from_json(ChunkRef, answer)

        return self._ask("put a chunk", put, self._limits.put_timeout_s)

    def read_chunk_into(self, ref: ChunkRef, offset: int, buffer: bytearray | memoryview) -> int:
        view = memoryview(buffer)
        if offset < 0 or offset + view.nbytes > ref.length:
            raise RangeNotSatisfiable(
                f"bytes [{offset}, {offset + view.nbytes}) of fid {ref.fid}, which has {ref.length}", length=ref.length
            )
        if not view.nbytes and ref.length:
            return 0  # HTTP has no form for an empty part
        whole = view.nbytes == ref.length
        path = f"/v1/chunks/{ref.group_id}/{ref.fid}"
        params = {"length": ref.length, "crc32c": ref.crc32c}
        headers = {} if whole else {"Range": f"bytes={offset}-{offset + view.nbytes - 1}"}

        def read(server: ServiceClient, timeout_s: float) -> int:
            told = server.read_into(path, view, params=params, headers=headers, read_timeout_s=timeout_s)
            expected = f"{ref.crc32c:08x}" if whole else told.get(CRC_HEADER.lower(), "")
            actual = crc32c_of(view)
            if f"{actual:08x}" != expected:
                raise ChecksumMismatch(
                    f"fid {ref.fid} from {server.base_url}: CRC-32C {actual:08x} instead of {expected!r}"
                )
            return actual

        unreadable = partial(ChunkUnreadable, fid=ref.fid)
        return self._ask(f"read fid {ref.fid}", read, self._limits.read_timeout_s, unreadable)

    def delete_chunks(self, refs: Sequence[ChunkRef]) -> list[ChunkRef]:
        left: list[ChunkRef] = []
        for first in range(0, len(refs), DELETE_MAX):
            some = refs[first : first + DELETE_MAX]
            left += self._ask(f"delete {len(some)} chunks", partial(self._delete, some), self._limits.delete_timeout_s)
        return left

    def _delete(self, refs: Sequence[ChunkRef], server: ServiceClient, timeout_s: float) -> list[ChunkRef]:
        answer = server.json(
            "POST",
            "/v1/chunks/delete",
            json={"refs": to_json(list(refs))},
            read_timeout_s=timeout_s,
        )
        return from_json(list[ChunkRef], answer["left"])

    def check(self) -> None:
        self._ask(
            "check",
            lambda server, timeout_s: server.json("GET", "/v1/check", read_timeout_s=timeout_s),
            self._limits.check_timeout_s,
        )

    def close(self) -> None:
        for server in self._servers:
            server.close()
        for pulse in self._pulses.values():
            pulse.close()

    def _ask(
        self,
        what: str,
        call: Callable[[ServiceClient, float], T],
        timeout_s: float,
        in_vain: Callable[[str], Unavailable] = Unavailable,
    ) -> T:
        """`call` on one server after the other, each with `timeout_s` at most, until one does it. When none does: the
        last one's error, or `in_vain` when that was one of OTHERS_MAY_DO_BETTER, which would tell our caller that what
        it sent is wrong."""
        last: SpeedyError | None = None
        give_up_s = self._clock() + self._limits.total_s
        order = self._in_turn()
        pulses = [self._pulses[server.base_url] for server in order]
        for server, pulse in zip(order, pulses, strict=True):
            alone = is_alone(pulse, pulses)
            if last is not None and pulse.still and not alone:
                continue  # another one has answered: that is what to tell
            left_s = give_up_s - self._clock()
            if last is not None and left_s <= 0:
                break
            try:
                with nullcontext() if alone else pulse.watched():
                    answer = call(server, min(timeout_s, left_s))
            except _Final as final:
                raise final.error from None
            except SpeedyError as error:
                if not (error.retryable or isinstance(error, OTHERS_MAY_DO_BETTER)):
                    raise
                last = error
                if type(error) in (Unavailable, DeadlineExceeded):  # not what it answered of groups or chunks
                    self._avoided_until_s[server.base_url] = self._clock() + self._limits.avoid_s
                log.info("%s could not %s: %s", server.base_url, what, error)
            else:
                if server.base_url in self._avoided_until_s:
                    self._avoided_until_s.pop(server.base_url, None)
                return answer
        assert last is not None
        if isinstance(last, OTHERS_MAY_DO_BETTER):
            raise in_vain(f"no ImageServer could {what}: {last}") from last
        raise last

    def _in_turn(self) -> list[ServiceClient]:
        with self._lock:
            first = self._turn = (self._turn + 1) % len(self._servers)
        order = self._servers[first:] + self._servers[:first]
        now_s = self._clock()
        order.sort(
            key=lambda server: (
                self._pulses[server.base_url].still,
                self._avoided_until_s.get(server.base_url, 0.0) > now_s,
            )
        )
        return order[: self._limits.attempts_max]


class _Final(Exception):  # never leaves this module
    """An error that no other server would answer differently."""

    def __init__(self, error: SpeedyError) -> None:
        super().__init__(str(error))
        self.error = error
