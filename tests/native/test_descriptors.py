"""The engine in a process that has no file descriptors left."""

import subprocess
import sys
from pathlib import Path

from .conftest import CLUSTER_ID

_WITHOUT_DESCRIPTORS = """
import os, resource, sys
from pathlib import Path
from native.checksum import crc32c
from native.engine import Engine, EngineOptions
from native.errors import StoreBusy

def descriptors(left):
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 1024))
    if left is not None:
        highest = max(int(name) for name in os.listdir("/proc/self/fd"))
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + left, 1024))

def put(engine, fid):
    payload = bytes([fid]) * (3 << 20)
    engine.put(fid, payload, crc32c(payload))

def is_there(engine, fid):
    buffer = bytearray(3 << 20)
    engine.read_into(fid, 0, buffer)
    return buffer == bytes([fid]) * (3 << 20)

directory = Path(sys.argv[1])
options = EngineOptions(
    cluster_id=sys.argv[2], volume_size_first=4 << 20, volume_size_max=4 << 20, reserve_bytes=0, appenders=1
)
engine = Engine.open(directory, options)
taken = 0
descriptors(1)
try:
    for fid in range(1, 60):
        put(engine, fid)
        taken = fid
except StoreBusy as error:
    assert "open files" in str(error), error
else:
    raise AssertionError("descriptors never ran out")
for _ in range(20):
    try:
        put(engine, 100)
        raise AssertionError("a volume was made without a descriptor")
    except StoreBusy:
        pass
assert engine.stat().state == "rw", engine.stat()
assert all(is_there(engine, fid) for fid in range(1, taken + 1))
descriptors(None)
for fid in range(taken + 1, taken + 13):
    put(engine, fid)
engine.close()
descriptors(12)
try:
    Engine.open(directory, options)
    raise AssertionError("a store was opened without its volumes")
except StoreBusy as error:
    assert "open files" in str(error), error
descriptors(None)
engine = Engine.open(directory, options)
assert all(is_there(engine, fid) for fid in range(1, taken + 13))
assert engine.stat().volumes_failed == 0
engine.close()
"""


def test_without_descriptors_it_is_busy_and_opens_with_all_volumes_or_not_at_all(fast_directory: Path) -> None:
    """In a process of its own, whose limit it changes."""
    done = subprocess.run(
        [sys.executable, "-c", _WITHOUT_DESCRIPTORS, str(fast_directory / "limited"), CLUSTER_ID],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
