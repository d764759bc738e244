"""A process to be killed: puts and deletes chunks from several threads and says on stdout what was acknowledged.

Usage: python -m tests.native.writer DIRECTORY FIRST_FID. A line is written after the acknowledgement and in one write,
so the reader's ledger never holds what was not acknowledged: ``put FID SHA256`` or ``delete FID``; ``deleting FID``
comes before a delete.
"""

import hashlib
import os
import random
import sys
import threading
from pathlib import Path

from native.engine import Engine, EngineOptions, crc32c

from .conftest import CLUSTER_ID, MIB


def say(line: str) -> None:
    os.write(1, line.encode("ascii") + b"\n")


def main() -> None:
    """Runs until killed."""
    directory, first_fid = Path(sys.argv[1]), int(sys.argv[2])
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
            payload = chance.randbytes(chance.choice([10, 3000, 4096, 50_000, 300_000]))
            engine.put(fid, payload, crc32c(payload))
            say(f"put {fid} {hashlib.sha256(payload).hexdigest()}")
            mine.append(fid)
            if len(mine) > 12:
                victim = mine.pop(chance.randrange(len(mine)))
                say(f"deleting {victim}")
                engine.delete(victim)
                say(f"delete {victim}")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main()
