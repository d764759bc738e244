"""Small file systems of their own, for tests that fill a disk to the last byte."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests import needs

MIB = 1024 * 1024
FILLINGS_MAX = 10


@contextmanager
def small_disk(kind: str, size_bytes: int, place: Path) -> Iterator[Path]:
    """An empty file system of `kind` ("ext4" or "tmpfs") at `place`, which is made; gone when the block ends."""
    needs.root()
    place.mkdir()
    if kind == "ext4":
        image = place.with_name(f"{place.name}.img")
        with image.open("wb") as file:
            file.truncate(size_bytes)
        # -m 0: the usual 5 % for root would still be free to a server that runs as root
        subprocess.run([needs.program("mkfs.ext4", "e2fsprogs"), "-q", "-m", "0", image], check=True)
        options = ["-o", "loop", str(image)]
    else:
        options = ["-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs"]
    done = subprocess.run(
        [needs.program("mount"), *options, place], capture_output=True, text=True, check=False, timeout=30
    )
    if done.returncode != 0:
        needs.not_run(f"a file system cannot be mounted here: {done.stderr.strip().partition(chr(10))[0]}")
    try:
        yield place
    finally:
        subprocess.run([needs.program("umount"), "--lazy", place], check=True, timeout=30)


def take_all(ballast: Path) -> None:
    """Fill the disk that `ballast` is on to the last byte, and what a running server gives up meanwhile."""
    with ballast.open("ab", buffering=0) as file:
        for _ in range(FILLINGS_MAX):
            for piece in (MIB, 4096, 1):
                try:
                    while file.write(bytes(piece)) == piece:
                        pass
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
            os.fsync(file.fileno())
            if shutil.disk_usage(ballast.parent).free == 0:
                return
    raise AssertionError(f"{shutil.disk_usage(ballast.parent).free} bytes are free again and again")
