"""How a verified chunk is best sent: from the buffer in which it was verified, or by sendfile after it was verified.

    python -m benchmarks.sending --data DIR

Chunks lie in the page cache and go to another process over loopback. Each way reads and sums up every byte before it
sends one; `sendfile, not verified` shows what the verification costs. The ways take turns within a round.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import platform
import socket
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from pathlib import Path

from rich.console import Console
from rich.table import Table

from native.checksum import crc32c

CHUNK_BYTES = 4 << 20
CHUNKS = 64
RECEIVE_BYTES = 1 << 20
TIMEOUT_S = 60.0


class Sender:
    """Sends the chunk at an offset of `file` to `sock`."""

    def __init__(self, file: int, sock: socket.socket) -> None:
        self._file = file
        self._sock = sock
        self._buffer = memoryview(bytearray(CHUNK_BYTES))

    def from_buffer(self, offset: int) -> None:
        self._verify(offset, self._buffer, 1 << 20)
        self._sock.sendall(self._buffer)

    def summed_up_twice(self, offset: int) -> None:
        self._verify(offset, self._buffer, 1 << 20)
        crc32c(self._buffer)
        self._sock.sendall(self._buffer)

    def by_sendfile(self, offset: int) -> None:
        self._verify(offset, self._buffer[: 256 << 10], 256 << 10)
        self.not_verified(offset)

    def not_verified(self, offset: int) -> None:
        end = offset + CHUNK_BYTES
        while offset < end:
            offset += os.sendfile(self._sock.fileno(), self._file, offset, end - offset)

    def _verify(self, offset: int, buffer: memoryview, piece_bytes: int) -> None:
        """In pieces that a cache holds. A buffer shorter than the chunk is used again for each."""
        crc = 0
        for at in range(0, CHUNK_BYTES, piece_bytes):
            start = at % len(buffer)
            piece = buffer[start : start + piece_bytes]
            assert os.preadv(self._file, [piece], offset + at) == piece_bytes
            crc = crc32c(piece, crc)


WAYS: dict[str, Callable[[Sender, int], None]] = {
    "from the buffer": Sender.from_buffer,
    "from the buffer, summed up twice": Sender.summed_up_twice,
    "sendfile": Sender.by_sendfile,
    "sendfile, not verified": Sender.not_verified,
}


def receive(port: int, told: Connection) -> None:
    with socket.create_connection(("127.0.0.1", port), TIMEOUT_S) as sock:
        buffer = bytearray(RECEIVE_BYTES)
        received, begin_s = 0, time.process_time()
        while count := sock.recv_into(buffer):
            received += count
    told.send((received, time.process_time() - begin_s))


def measure(file: int, way: Callable[[Sender, int], None]) -> tuple[float, float, float]:
    """(MB/s, seconds of processor time of the sender, and of the receiver) for CHUNKS chunks."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(TIMEOUT_S)
        receiver = context.Process(target=receive, args=(server.getsockname()[1], theirs))
        receiver.start()
        sock, _ = server.accept()
    begin_s, begin_cpu_s = time.monotonic(), time.process_time()
    with sock:
        sender = Sender(file, sock)
        for chunk in range(CHUNKS):
            way(sender, chunk * CHUNK_BYTES)
    assert ours.poll(TIMEOUT_S)
    received, receiver_cpu_s = ours.recv()
    seconds, cpu_s = time.monotonic() - begin_s, time.process_time() - begin_cpu_s
    receiver.join(TIMEOUT_S)
    assert received == CHUNKS * CHUNK_BYTES
    return received / 1e6 / seconds, cpu_s, receiver_cpu_s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a directory for 256 MiB of chunks")
    parser.add_argument("--rounds", type=int, default=9)
    given = parser.parse_args()
    seen: dict[str, list[tuple[float, float, float]]] = defaultdict(list)
    with tempfile.TemporaryFile(dir=given.data) as chunks:
        for _ in range(CHUNKS):
            chunks.write(os.urandom(CHUNK_BYTES))
        chunks.flush()
        os.fsync(chunks.fileno())
        for _ in range(given.rounds):
            for name, way in WAYS.items():
                seen[name].append(measure(chunks.fileno(), way))
    today = datetime.now(UTC).date()
    table = Table(
        title=f"{given.data} on {platform.machine()}, {os.cpu_count()} cores, {today}; median of {given.rounds}"
    )
    for heading in ("way", "MB/s", "sender, CPU s", "receiver, CPU s"):
        table.add_column(heading, justify="left" if heading == "way" else "right")
    for name, values in seen.items():
        rate, sender_s, receiver_s = (statistics.median(column) for column in zip(*values, strict=True))
        table.add_row(name, f"{rate:,.0f}", f"{sender_s:.3f}", f"{receiver_s:.3f}")
    Console().print(table)


if __name__ == "__main__":
    main()
