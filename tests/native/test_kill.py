"""kill -9 with a ledger outside: what was acknowledged is there, what was deleted is not, and nothing is torn.

``SPEEDY_KILL_ROUNDS`` makes more of it.
"""

import hashlib
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType

import pytest

from native.engine import Engine
from native.errors import ChunkNotFound

from .conftest import OpenStore

ROOT = Path(__file__).parents[2]
ROUNDS = int(os.environ.get("SPEEDY_KILL_ROUNDS", "200"))
SEED = int(os.environ.get("SPEEDY_SEED", "9"))
DEADLINE_S = 60.0
LINES_MAX = 60  # none: killed while it opens
KEPT_MAX = 60


class Writers:
    """Starts writers one after the other (tests/native/writer.py) and kills each."""

    def __init__(self, directory: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.native.writer", str(directory)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )

    def __enter__(self) -> "Writers":
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self._process.communicate(timeout=DEADLINE_S)

    def run_and_kill(self, first_fid: int, lines_before_kill: int) -> list[str]:
        """Lets a writer write that many lines, kills it, and returns the lines it wrote, the last ones too."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"%d\n" % first_fid)
        self._process.stdin.flush()
        child = int(self._line())
        lines = [self._line() for _ in range(lines_before_kill)]
        os.kill(child, signal.SIGKILL)
        while not (line := self._line()).startswith("ended "):
            lines.append(line)
        assert line == f"ended {int(signal.SIGKILL)}"
        return lines

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line.endswith(b"\n"), "the writers' process ended"
        return line.decode("ascii").rstrip("\n")


class Ledger:
    """What was acknowledged: sha256 by fid, and what was being or has been deleted."""

    def __init__(self) -> None:
        self.stored: dict[int, str] = {}
        self.deleting: set[int] = set()
        self.deleted: set[int] = set()
        self.puts = self.deletes = 0

    def note(self, lines: list[str]) -> None:
        for line in lines:
            words = line.split()
            if words[0] == "put":
                self.stored[int(words[1])] = words[2]
                self.puts += 1
            elif words[0] == "deleting":
                self.deleting.add(int(words[1]))
            elif words[0] == "delete":
                self.deleted.add(int(words[1]))
                self.deletes += 1

    def check(self, engine: Engine) -> None:
        """I1, I2, I6, I7; also what was never acknowledged is whole."""
        for fid, digest in self.stored.items():
            try:
                buffer = bytearray(engine.info(fid).length)
                engine.read_into(fid, 0, buffer)
            except ChunkNotFound:
                assert fid in self.deleting, f"{fid} is lost"
                continue
            assert fid not in self.deleted, f"{fid} is back"
            assert hashlib.sha256(buffer).hexdigest() == digest
        for chunk in engine.iterate(limit=100_000):
            engine.read_into(chunk.fid, 0, bytearray(chunk.length))
        stat = engine.stat()
        assert (stat.volumes_failed, stat.volumes_quarantined) == (0, 0)
        assert stat.live_bytes + stat.dead_bytes + stat.pad_bytes + stat.volume_free_bytes == stat.volume_bytes

    def thin_out(self, engine: Engine, chance: random.Random) -> None:
        """Deletes all but some chunks, so that a later round has not more to check than an earlier one."""
        chunks = [chunk.fid for chunk in engine.iterate(limit=100_000)]
        for fid in chance.sample(chunks, max(0, len(chunks) - KEPT_MAX)):
            engine.delete(fid)
            self.deleting.add(fid)
            self.deleted.add(fid)


@pytest.mark.timeout(max(300, 3 * ROUNDS))
def test_what_was_acknowledged_survives_kill_9_and_what_was_deleted_stays_away(
    open_store: OpenStore, fast_directory: Path
) -> None:
    print(f"SPEEDY_SEED={SEED}")
    chance = random.Random(SEED)
    ledger = Ledger()
    with Writers(fast_directory) as writers:
        for number in range(ROUNDS):
            lines = writers.run_and_kill(1 + number * 1_000_000, chance.randint(0, LINES_MAX))
            assert lines[:1] in ([], ["open"])
            ledger.note(lines[1:])
            engine = open_store()
            ledger.check(engine)
            ledger.thin_out(engine, chance)
            engine.close()
    assert not (fast_directory / "v00000001.dat").exists()  # compacted
    assert ledger.puts > 10 * ROUNDS
    assert ledger.deletes > ROUNDS // 2
