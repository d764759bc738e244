"""What a store with very many chunks costs: opening it again, memory for each chunk, and space on the disk."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from native.checksum import crc32c
from native.engine import Engine, EngineOptions

AT_ONCE = 1024
TINY_BYTES = 256
FILE_BYTES = 4096
CHILD_TIMEOUT_S = 3600.0

#: chunks written after the last checkpoint before the process is killed
TAIL_CHUNKS = 100_000


def reopening(directory: Path, count: int) -> Iterator[tuple[str, float]]:
    """Seconds to open after a clean stop and after kill -9, and bytes of memory for each chunk."""
    cluster_id = str(uuid.uuid4())
    with Engine.open(directory, EngineOptions(cluster_id=cluster_id)) as engine:
        fill(engine, 1, count, TINY_BYTES)
    seconds, index_bytes, resident_bytes = _opened_in_a_process(directory, cluster_id)
    yield f"open {count:,} chunks after a clean stop, s", seconds
    yield "index, bytes for each chunk", index_bytes / count
    yield "memory of the process, bytes for each chunk", resident_bytes / count
    _killed_while_writing(directory, cluster_id, count)
    seconds, _, _ = _opened_in_a_process(directory, cluster_id)
    yield f"open after kill -9, {TAIL_CHUNKS:,} chunks behind the last checkpoint, s", seconds


def space(directory: Path, count: int) -> Iterator[tuple[str, float]]:
    """Bytes that the file system gave for each byte of 4 KiB chunks: written alone, in batches, and compacted."""
    options = EngineOptions(cluster_id=str(uuid.uuid4()), appenders=1)
    with Engine.open(directory, options) as engine:
        alone = min(count // 10, 20_000)
        payload = memoryview(os.urandom(FILE_BYTES))
        crc = crc32c(payload)
        for fid in range(1, alone + 1):
            engine.put(fid, payload, crc)
        fill(engine, alone + 1, count - alone, FILE_BYTES)
        engine.checkpoint()
        yield f"disk bytes for each byte, {count:,} files of 4 KiB", allocated_bytes(directory) / (count * FILE_BYTES)
        for fid in range(1, count + 1, 2):
            engine.delete(fid)
        engine.checkpoint()
        left_bytes = (count // 2) * FILE_BYTES
        yield "... half of them deleted", allocated_bytes(directory) / left_bytes
        begin_s = time.monotonic()
        engine.compact(below=1.0)
        yield "... and compacted", allocated_bytes(directory) / left_bytes
        yield "compaction took, s", time.monotonic() - begin_s


def fill(engine: Engine, first_fid: int, count: int, size: int) -> None:
    payload = memoryview(os.urandom(size))
    crc = crc32c(payload)
    end_fid = first_fid + count
    for start in range(first_fid, end_fid, AT_ONCE):
        answers = engine.put_many([(fid, payload, crc) for fid in range(start, min(end_fid, start + AT_ONCE))])
        assert not any(answers), answers


def allocated_bytes(directory: Path) -> int:
    """What the file system gave to the files, as it tells itself."""
    os.sync()
    return sum(path.stat().st_blocks * 512 for path in directory.iterdir())


def _opened_in_a_process(directory: Path, cluster_id: str) -> tuple[float, int, int]:
    """(seconds, bytes of the index, growth of the resident set in bytes) of one open in a fresh process."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.reopening", "open", directory, cluster_id],
        capture_output=True, text=True, check=True, timeout=CHILD_TIMEOUT_S,
    )  # fmt: skip
    seconds, index_bytes, resident_bytes = done.stdout.split()
    return float(seconds), int(index_bytes), int(resident_bytes)


def _killed_while_writing(directory: Path, cluster_id: str, count: int) -> None:
    child = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.reopening", "write", directory, cluster_id, str(count)],
        stdout=subprocess.PIPE,
    )
    assert child.stdout is not None
    assert child.stdout.readline().strip() == b"written"
    child.send_signal(signal.SIGKILL)
    child.wait(CHILD_TIMEOUT_S)


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _child(what: str, directory: Path, options: EngineOptions, *rest: str) -> None:
    before_bytes = _resident_bytes()
    begin_s = time.monotonic()
    engine = Engine.open(directory, options)
    seconds = time.monotonic() - begin_s
    if what == "open":
        print(seconds, engine.stat().index_bytes, _resident_bytes() - before_bytes)
        engine.close()
        return
    engine.checkpoint()
    fill(engine, int(rest[0]) + 1, TAIL_CHUNKS, TINY_BYTES)
    print("written", flush=True)
    signal.pause()


if __name__ == "__main__":
    _child(
        sys.argv[1],
        Path(sys.argv[2]),
        EngineOptions(cluster_id=sys.argv[3], checkpoint_s=3600.0, checkpoint_bytes=1 << 40),
        *sys.argv[4:],
    )
