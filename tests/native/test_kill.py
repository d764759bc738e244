"""kill -9 with a ledger outside: what was acknowledged is there, what was deleted is not, and nothing is torn."""

import hashlib
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

from native.engine import ChunkNotFound

from .conftest import OpenStore

ROOT = Path(__file__).parents[2]
ROUNDS = 10
DEADLINE_S = 60.0


def run_and_kill(directory: Path, first_fid: int, lines_before_kill: int) -> list[str]:
    """Starts a writer, kills it after that many lines, and returns the whole lines it wrote."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.native.writer", str(directory), str(first_fid)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ) as writer:
        assert writer.stdout is not None
        lines = [writer.stdout.readline() for _ in range(lines_before_kill)]
        assert writer.poll() is None, lines
        writer.send_signal(signal.SIGKILL)
        lines += writer.stdout.readlines()
        assert writer.wait(DEADLINE_S) == -signal.SIGKILL
    return [line.decode("ascii").rstrip("\n") for line in lines if line.endswith(b"\n")]


def test_what_was_acknowledged_survives_kill_9_and_what_was_deleted_stays_away(
    open_store: OpenStore, fast_directory: Path
) -> None:
    chance = random.Random(9)
    stored: dict[int, str] = {}
    deleting: set[int] = set()
    deleted: set[int] = set()
    for number in range(ROUNDS):
        lines = run_and_kill(fast_directory, 1 + number * 1_000_000, chance.randint(60, 250))
        assert lines[0] == "open"
        for line in lines[1:]:
            words = line.split()
            if words[0] == "put":
                stored[int(words[1])] = words[2]
            elif words[0] == "deleting":
                deleting.add(int(words[1]))
            else:
                deleted.add(int(words[1]))
        engine = open_store()
        for fid, digest in stored.items():
            try:
                buffer = bytearray(engine.info(fid).length)
                engine.read_into(fid, 0, buffer)
            except ChunkNotFound:
                assert fid in deleting
                continue
            assert fid not in deleted
            assert hashlib.sha256(buffer).hexdigest() == digest
        for chunk in engine.iterate(limit=100_000):
            engine.read_into(chunk.fid, 0, bytearray(chunk.length))  # also what was never acknowledged is whole
        stat = engine.stat()
        assert (stat.volumes_failed, stat.volumes_quarantined) == (0, 0)
        assert stat.live_bytes + stat.dead_bytes + stat.pad_bytes + stat.volume_free_bytes == stat.volume_bytes
        engine.close()
    assert len(stored) > 20 * ROUNDS
    assert len(deleted) > ROUNDS
