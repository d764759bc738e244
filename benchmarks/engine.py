"""How close the storage engine comes to what the disk, the page cache and the checksum allow.

    python -m benchmarks.engine --data /var/tmp
    python -m benchmarks.engine --data /var/tmp --reopen-chunks 10000000 --space-chunks 1000000

Limits are measured in the same round as what is compared with them, right before it, on the same file system: writes
against pwrite + fdatasync of the batch size that the engine really reached, into preallocated space; reads against
pread of the same pattern from the page cache plus the time that the checksum of those bytes takes. The table holds the
median of the rounds. Beside the engine stand three stores that one would write in an afternoon.

Blocking threads of Python cannot keep 64 small puts in flight, and its calls take longer than a small read: small
chunks are measured through `put_many`, and by a loop in C (engine_loop.c).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import shutil
import statistics
import sys
import tempfile
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.alternatives import ALTERNATIVES
from benchmarks.engine_loop import EngineLoop
from benchmarks.rawdisk import aligned, cached_reads_per_s, preallocated, synced_writes_per_s, synced_writes_s
from benchmarks.reopening import reopening, space
from native.checksum import crc32c
from native.engine import Engine, EngineOptions

KIB, MIB = 1024, 1024 * 1024
LARGE_BYTES, SMALL_BYTES = 4 * MIB, 4 * KIB
IN_FLIGHT = 64
CALLERS = 2
TURNS = 8

#: (what is measured, value) of one round
Measured = Iterator[tuple[str, float]]


@contextmanager
def directory_below(parent: Path) -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="speedy-bench-", dir=parent))
    try:
        yield path
    finally:
        shutil.rmtree(path)
        os.sync()  # what this case left to the page cache is not written at the next one's expense


@contextmanager
def opened(parent: Path, **options: object) -> Iterator[Engine]:
    with directory_below(parent) as directory:
        chosen = EngineOptions(cluster_id=str(uuid.uuid4()), **options)  # type: ignore[arg-type]
        with Engine.open(directory, chosen) as engine:
            yield engine


def at_once(threads: int, work: Callable[[int], None]) -> float:
    """Seconds that `work(number)` takes in so many threads."""
    with ThreadPoolExecutor(threads) as pool:
        begin_s = time.monotonic()
        for future in [pool.submit(work, number) for number in range(threads)]:
            future.result()
        return time.monotonic() - begin_s


def payloads(size: int) -> memoryview:
    return memoryview(os.urandom(size))


def touch_memory(parent: Path, size: int) -> None:
    """Write and remove as much as the next case writes. A virtual machine gets its pages from the host when they are
    first used, which takes longer than writing them: whoever came first would pay for the other."""
    with directory_below(parent) as directory, (directory / "touched").open("wb", buffering=0) as file:
        payload = payloads(MIB)
        for _ in range(0, size, MIB):
            file.write(payload)


def large_writes(parent: Path, writers: int, total_bytes: int) -> Measured:
    """MB/s of 4 MiB chunks, against the disk at the batch size that was reached. They take turns, TURNS times: a disk,
    and memory that a virtual machine is given when it first uses it, are not equally fast all the time."""
    payload = payloads(LARGE_BYTES)
    crc, each = crc32c(payload), max(1, total_bytes // LARGE_BYTES // writers // TURNS)
    turn_bytes = each * writers * LARGE_BYTES
    touch_memory(parent, 2 * total_bytes)
    seconds = limit_s = 0.0
    written = 0
    with opened(parent) as engine, directory_below(parent) as raw, preallocated(raw, total_bytes) as file:
        for turn in range(TURNS):

            def write(number: int, first: int = 1 + turn * each * writers) -> None:
                for n in range(each):
                    engine.put(first + number * each + n, payload, crc)

            before = engine.stat()
            seconds += at_once(writers, write)
            stat = engine.stat()
            batch_bytes = aligned((stat.live_bytes - before.live_bytes) // max(1, stat.batches - before.batches))
            count = max(1, turn_bytes // batch_bytes)
            limit_s += synced_writes_s(file, written, payload, batch_bytes, count)
            written += count * batch_bytes
    rate, limit = TURNS * turn_bytes / 1e6 / seconds, written / 1e6 / limit_s
    yield f"put 4 MiB, {writers} writers, MB/s", rate
    yield f"put 4 MiB, {writers} writers, bytes of a batch", stat.live_bytes // max(1, stat.batches)
    yield f"put 4 MiB, {writers} writers, limit MB/s", limit
    yield f"put 4 MiB, {writers} writers, of the limit", rate / limit


def small_writes(parent: Path, loop: EngineLoop, count: int) -> Measured:
    """4 KiB chunks per second with 64 in flight, against one sync a write and against the batch size reached."""
    payload = payloads(SMALL_BYTES)
    crc = crc32c(payload)
    with directory_below(parent) as directory:
        alone = synced_writes_per_s(directory, payload, 2 * SMALL_BYTES, min(count, 2000))
    yield "put 4 KiB, one sync a write, per s", alone
    with opened(parent) as engine:
        each = count // CALLERS // (IN_FLIGHT // CALLERS) * (IN_FLIGHT // CALLERS)

        def many(number: int) -> None:
            first = 1 + number * each
            for start in range(first, first + each, IN_FLIGHT // CALLERS):
                answers = engine.put_many([(start + n, payload, crc) for n in range(IN_FLIGHT // CALLERS)])
                assert not any(answers), answers

        seconds = at_once(CALLERS, many)
        stat = engine.stat()
    batches = max(1, stat.batches)
    reached = (stat.appends / seconds, stat.appends / batches, stat.live_bytes / batches)
    yield from _against_the_disk(parent, "put_many, 64 in flight", reached, alone)
    with directory_below(parent) as directory:
        rate, needles, batch_bytes = loop.run("put", IN_FLIGHT, count, directory)
    yield from _against_the_disk(parent, "64 threads in C", (rate, needles, batch_bytes), alone)


def _against_the_disk(parent: Path, name: str, reached: tuple[float, float, float], alone: float) -> Measured:
    """`reached`: chunks per second, chunks of a batch, bytes of a batch; against the disk with such batches."""
    rate, needles, batch_bytes = reached
    with directory_below(parent) as directory:
        size = aligned(int(batch_bytes))
        limit = synced_writes_per_s(directory, payloads(MIB), size, max(100, 64 * MIB // size)) * needles
    yield f"put 4 KiB, {name}, per s", rate
    yield f"put 4 KiB, {name}, chunks of a batch", needles
    yield f"put 4 KiB, {name}, limit per s", limit
    yield f"put 4 KiB, {name}, of the limit", rate / limit
    yield f"put 4 KiB, {name}, times one sync a write", rate / alone


def large_reads(parent: Path, chunks: int, count: int) -> Measured:
    """4 MiB reads per second from the page cache, against pread of the same size and the checksum's time."""
    payload = payloads(LARGE_BYTES)
    crc = crc32c(payload)
    order = [random.Random(n).randrange(chunks) for n in range(count)]
    with opened(parent) as engine:
        for number in range(chunks):
            engine.put(1 + number, payload, crc)
        buffer = memoryview(bytearray(LARGE_BYTES))
        begin_s = time.monotonic()
        for number in order:
            engine.read_into(1 + number, 0, buffer)
        rate = count / (time.monotonic() - begin_s)
    places = [number * LARGE_BYTES for number in order]
    with directory_below(parent) as directory:
        limit = cached_reads_per_s(directory, LARGE_BYTES, places, checked=True)
        plain = cached_reads_per_s(directory, LARGE_BYTES, places, checked=False)
    yield from _against_pread("4 MiB", rate, plain, limit)


def small_reads(parent: Path, loop: EngineLoop, count: int) -> Measured:
    """4 KiB reads per second from the page cache, in C: an interpreter takes longer for a call than the read does."""
    with directory_below(parent) as directory:
        rate, plain, limit = loop.run("read", count, directory)
    yield from _against_pread("4 KiB, in C", rate, plain, limit)


def _against_pread(label: str, rate: float, plain: float, limit: float) -> Measured:
    yield f"read {label}, per s", rate
    yield f"read {label}, pread per s", plain
    yield f"read {label}, pread and checksum per s", limit
    yield f"read {label}, of the limit", rate / limit


def alternatives(parent: Path, size: int, label: str, count: int) -> Measured:
    """Chunks per second, one writer, each durable before the next; and reading them again."""
    payload = payloads(size)
    crc = crc32c(payload)
    order = [1 + random.Random(n).randrange(count) for n in range(count)]
    buffer = memoryview(bytearray(size))
    touch_memory(parent, size * count)
    with opened(parent) as engine:
        begin_s = time.monotonic()
        for fid in range(1, count + 1):
            engine.put(fid, payload, crc)
        put_s = time.monotonic() - begin_s
        begin_s = time.monotonic()
        for fid in order:
            engine.read_into(fid, 0, buffer)
        yield f"one writer, {label}: the engine, put per s", count / put_s
        yield f"one writer, {label}: the engine, read per s", count / (time.monotonic() - begin_s)
    for alternative in ALTERNATIVES:
        touch_memory(parent, size * count)
        with directory_below(parent) as directory:
            store = alternative(directory)
            begin_s = time.monotonic()
            for fid in range(1, count + 1):
                store.put(fid, payload)
            put_s = time.monotonic() - begin_s
            begin_s = time.monotonic()
            for fid in order:
                store.get(fid)
            yield f"one writer, {label}: {store.name}, put per s", count / put_s
            yield f"one writer, {label}: {store.name}, read per s", count / (time.monotonic() - begin_s)
            store.close()


def one_round(parent: Path, loop: EngineLoop, scale: float) -> Measured:
    yield from large_writes(parent, 1, int(1024 * MIB * scale))
    yield from large_writes(parent, 8, int(2048 * MIB * scale))
    yield from small_writes(parent, loop, int(64_000 * scale))
    yield from large_reads(parent, 64, int(1000 * scale))
    yield from small_reads(parent, loop, int(100_000 * scale))
    yield from alternatives(parent, SMALL_BYTES, "4 KiB", int(2000 * scale))
    yield from alternatives(parent, LARGE_BYTES, "4 MiB", int(100 * scale))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(tempfile.gettempdir()), help="where the files go")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scale", type=float, default=1.0, help="more or less work in each case")
    parser.add_argument("--reopen-chunks", type=int, default=0, help="also: reopening with so many chunks (384 B each)")
    parser.add_argument("--space-chunks", type=int, default=0, help="also: space of so many 4 KiB chunks, compacted")
    parser.add_argument("--json", type=Path, help="write the numbers here too")
    return parser.parse_args()


def main() -> None:
    given = arguments()
    console = Console(width=None if sys.stdout.isatty() else 140)
    values: dict[str, list[float]] = defaultdict(list)
    with directory_below(given.data) as directory:
        loop = EngineLoop(directory)
        for turn in range(given.rounds):
            for name, value in one_round(given.data, loop, given.scale):
                values[name].append(value)
            console.print(f"round {turn + 1} of {given.rounds} on {given.data} done", style="dim")
    if given.reopen_chunks:
        with directory_below(given.data) as directory:
            for name, value in reopening(directory, given.reopen_chunks):
                values[name].append(value)
    if given.space_chunks:
        with directory_below(given.data) as directory:
            for name, value in space(directory, given.space_chunks):
                values[name].append(value)
    where = f"{platform.node()}, {os.cpu_count()} cores, Python {platform.python_version()}, {time.strftime('%F')}"
    table = Table(title=f"{given.data} on {where}; median of {given.rounds} (lowest - highest)")
    table.add_column("what")
    table.add_column("value", justify="right")
    for name, found in values.items():
        spread = f" ({_number(min(found))} - {_number(max(found))})" if len(found) > 1 else ""
        table.add_row(name, f"{_number(statistics.median(found))}{spread}")
    console.print(table)
    if given.json:
        given.json.write_text(json.dumps(values, indent=1))


def _number(value: float) -> str:
    return f"{value:,.2f}" if abs(value) < 100 else f"{value:,.0f}"


if __name__ == "__main__":
    main()
