"""Small file systems of their own, for tests that fill a disk to the last byte or let it fail."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests import needs

MIB = 1024 * 1024
FILLINGS_MAX = 10
WAIT_S = 60.0
HANG_MAX_S = 45.0

#: makes a block device of so many bytes below a directory; what is yielded with it spoils it, or lets it go on
Device = Callable[[Path, int], AbstractContextManager[tuple[Path, Callable[[bool], None]]]]


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


def run(*command: str | Path, statuses: tuple[int, ...] = (0,)) -> None:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=WAIT_S, check=False)
    assert done.returncode in statuses, f"{command}: {done.stderr}"


@contextmanager
def mounted(image: Path, place: Path) -> Iterator[Path]:
    """The file system in ``image``, mounted through a loop device at ``place``."""
    needs.root()
    place.mkdir(exist_ok=True)
    command = [needs.program("mount"), "-o", "loop", image, place]
    done = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S, check=False)
    if done.returncode != 0:
        needs.not_run(f"a file system cannot be mounted here: {done.stderr.strip().partition(chr(10))[0]}")
    try:
        yield place
    finally:
        unmounted = subprocess.run([needs.program("umount"), place], capture_output=True, timeout=WAIT_S, check=False)
        if unmounted.returncode != 0:  # a test that failed with its store open
            run(needs.program("umount"), "--lazy", place)


@contextmanager
def overlay(place: Path) -> Iterator[Path]:
    """An empty overlay, as containers have, over directories in ``place``."""
    needs.root()
    lower, upper, work, merged = (place / name for name in ("lower", "upper", "work", "merged"))
    for directory in (lower, upper, work, merged):
        directory.mkdir()
    options = f"lowerdir={lower},upperdir={upper},workdir={work}"
    command = [needs.program("mount"), "-t", "overlay", "overlay", "-o", options, merged]
    done = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S, check=False)
    if done.returncode != 0:
        needs.not_run(f"an overlay cannot be mounted here: {done.stderr.strip().partition(chr(10))[0]}")
    try:
        yield merged
    finally:
        run(needs.program("umount"), "--lazy", merged)


@contextmanager
def failing_device(tmp_path: Path, size_bytes: int) -> Iterator[tuple[Path, Callable[[bool], None]]]:
    """A block device in a file (nbdfuse) whose writes answer EIO while the second value says so."""
    trigger = tmp_path / "fail"

    def fail(yes: bool) -> None:
        if yes:
            trigger.touch()
        else:
            trigger.unlink(missing_ok=True)

    filters = ["--filter=error", "memory", str(size_bytes), "error-pwrite=EIO", "error-pwrite-rate=100%"]
    with _device(tmp_path, [*filters, f"error-file={trigger}"]) as (device, _):
        try:
            yield device, fail
        finally:
            fail(False)


@contextmanager
def hanging_device(tmp_path: Path, size_bytes: int) -> Iterator[tuple[Path, Callable[[bool], None]]]:
    """A block device in a file (nbdfuse) that answers nothing while the second value says so, HANG_MAX_S at most: a
    test that waits for it can be ended by nothing else."""
    with _device(tmp_path, ["memory", str(size_bytes)]) as (device, server):
        watch = threading.Timer(HANG_MAX_S, server.send_signal, [signal.SIGCONT])

        def hang(yes: bool) -> None:
            server.send_signal(signal.SIGSTOP if yes else signal.SIGCONT)

        watch.start()
        try:
            yield device, hang
        finally:
            watch.cancel()
            hang(False)


@dataclass(frozen=True, slots=True)
class TwoDisks:
    """A disk that is mounted, and one whose device does badly while `spoil` says so, mounted when a test uses it."""

    good: Path
    device: Path
    spoil: Callable[[bool], None]

    @contextmanager
    def mounted(self) -> Iterator[tuple[Path, Path]]:
        """Directories for chunks: the good one, and the one on the other disk."""
        with mounted(self.device, self.good.with_name("bad")) as bad:
            yield self.good / "chunks", bad / "chunks"


@contextmanager
def two_disks(tmp_path: Path, device: Device) -> Iterator[TwoDisks]:
    """Both with an empty ext4; the bad one on what `device` (failing_device, hanging_device) gives."""
    size_bytes = 128 * MIB
    with (
        device(tmp_path, size_bytes) as (bad, spoil),
        small_disk("ext4", size_bytes, tmp_path / "good") as good,
    ):
        run(needs.program("mkfs.ext4", "e2fsprogs"), "-q", "-F", "-m", "0", bad)
        yield TwoDisks(good, bad, spoil)


@contextmanager
def _device(tmp_path: Path, options: list[str]) -> Iterator[tuple[Path, subprocess.Popen[str]]]:
    needs.root()
    nbdkit, nbdfuse = needs.program("nbdkit"), needs.program("nbdfuse", "libnbd-bin")
    if not Path("/dev/fuse").exists():
        needs.not_run("no /dev/fuse")
    place = tmp_path / "device"
    place.mkdir()
    command: list[str | Path] = [nbdfuse, place / "nbd", "--command", nbdkit, "-s", "--exit-with-parent"]
    with subprocess.Popen([*command, *options], stderr=subprocess.PIPE, text=True) as server:
        deadline = time.monotonic() + WAIT_S
        while not (place / "nbd").exists():
            assert server.poll() is None, server.stderr.read() if server.stderr else ""
            assert time.monotonic() < deadline
            time.sleep(0.02)

        try:
            yield place / "nbd", server
        finally:
            run(needs.program("fusermount3", "fuse3"), "-u", "-z", place)
            server.wait(WAIT_S)
