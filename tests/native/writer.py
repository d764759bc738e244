"""A process to be killed: puts and deletes chunks from several threads, compacts all the while, and says on stdout what
was acknowledged.

Usage: python -m tests.native.writer DIRECTORY. Each line of standard input is a FIRST_FID and starts a writer as a
child, which is faster than a new interpreter; its process id is the first line that it writes. A line is written after
the acknowledgement and in one write, so the reader's ledger never holds what was not acknowledged: ``put FID SHA256``
or ``delete FID``; ``deleting FID`` comes before a delete. When the child has ended, ``ended STATUS`` is written.
"""

import hashlib
import os
import random
import sys
import threading
from pathlib import Path
from typing import NoReturn

from native.checksum import crc32c
from native.engine import Engine, EngineOptions

from .conftest import CLUSTER_ID, MIB


def say(line: str) -> None:
    os.write(1, line.encode("ascii") + b"\n")


def main() -> None:
    """One writer after the other, until the input ends."""
    for line in sys.stdin:
        child = os.fork()  # no thread has been started yet
        if child == 0:
            write(Path(sys.argv[1]), int(line))
        _, status = os.waitpid(child, 0)
        say(f"ended {status}")


def write(directory: Path, first_fid: int) -> NoReturn:
    """Runs until killed."""
    say(str(os.getpid()))
    options = EngineOptions(
        cluster_id=CLUSTER_ID,
        volume_size_first=MIB,
        volume_size_max=4 * MIB,
        reserve_bytes=0,
        checkpoint_bytes=MIB,
        checkpoint_s=0.2,
    )
    engine = Engine.open(directory, options)
    say("open")

    def work(thread: int) -> None:
        chance = random.Random(first_fid + thread)
        mine: list[int] = []
        for fid in range(first_fid + thread, first_fid + 1_000_000, 4):
            payload = chance.randbytes(chance.choice([10, 300, 3000, 4096, 4096, 20_000, 20_000, 300_000]))
            engine.put(fid, payload, crc32c(payload))
            say(f"put {fid} {hashlib.sha256(payload).hexdigest()}")
            mine.append(fid)
            if len(mine) > 12:
                victim = mine.pop(chance.randrange(len(mine)))
                say(f"deleting {victim}")
                engine.delete(victim)
                say(f"delete {victim}")

    def compact() -> None:
        pause = threading.Event()
        while not pause.wait(0.005):
            engine.compact(below=1.0)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    threads.append(threading.Thread(target=compact))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    raise AssertionError("nobody came to kill")


if __name__ == "__main__":
    main()
