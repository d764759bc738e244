"""How long a registry takes to close an upload, by its size: the time of the PUT alone, after all bytes were answered.

    python -m benchmarks.closing --speedy --data /var/tmp --size-mib 10 --size-mib 1024 --size-mib 10240
    python -m benchmarks.closing --target theirs=http://127.0.0.1:5001

Clients such as containerd give up 30 s after the last byte of a layer, however large it is. The sizes are measured in
turn within each round.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import statistics
import sys
import time
import uuid
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.processes import DockerRegistry, Elsewhere, SpeedyServe, Target
from benchmarks.rawhttp import Connection, target_of

MIB = 1024 * 1024
PATCH_BYTES = 64 * MIB
REPOSITORY = "bench/closing"


def close_after(url: str, size: int) -> float:
    """Push a blob of `size` bytes that the registry does not have; seconds that its closing PUT took."""
    payload = memoryview(os.urandom(min(size, PATCH_BYTES)))
    sha = hashlib.sha256()
    connection = Connection(url, timeout_s=600.0)
    try:
        opened = connection.request("POST", f"/v2/{REPOSITORY}-{uuid.uuid4().hex}/blobs/uploads/").expect(202)
        target = target_of(opened.headers["location"])
        for start in range(0, size, PATCH_BYTES):
            piece = payload[: min(PATCH_BYTES, size - start)]
            target = target_of(connection.request("PATCH", target, piece).expect(202, 204).headers["location"])
            sha.update(piece)
        closing = f"{target}{'&' if '?' in target else '?'}digest=sha256:{sha.hexdigest()}"
        begin_s = time.monotonic()
        connection.request("PUT", closing).expect(201)
        return time.monotonic() - begin_s
    finally:
        connection.close()


def compare(targets: Sequence[Target], sizes: Sequence[int], rounds: int) -> dict[tuple[str, int], list[float]]:
    taken: dict[tuple[str, int], list[float]] = {(target.name, size): [] for target in targets for size in sizes}
    for _ in range(rounds):
        for target in targets:
            target.renew()
            for size in sizes:
                taken[target.name, size].append(close_after(target.url, size))
    return taken


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--target", action="append", default=[], metavar="NAME=URL", help="a registry that runs already"
    )
    parser.add_argument("--speedy", action="store_true", help="start the embedded server")
    parser.add_argument("--with-docker-registry", action="store_true", help="start Debian's docker-registry beside it")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("TMPDIR", "/tmp")), help="where those started")
    parser.add_argument("--size-mib", action="append", type=int, default=[], help="default: 10 and 1024")
    parser.add_argument("--rounds", type=int, default=3)
    return parser.parse_args()


def main() -> None:
    given = arguments()
    targets: list[Target] = [Elsewhere(*pair.split("=", 1)) for pair in given.target]
    targets += [SpeedyServe("speedy", given.data)] if given.speedy else []
    targets += [DockerRegistry("docker-registry", given.data)] if given.with_docker_registry else []
    if not targets:
        sys.exit("nothing to measure: give --target NAME=URL or --speedy")
    sizes = sorted(size * MIB for size in given.size_mib or (10, 1024))
    try:
        taken = compare(targets, sizes, given.rounds)
    finally:
        for target in targets:
            target.close()
    table = Table(title=f"closing PUT on {given.data}, ms, median of {given.rounds} (worst)")
    table.add_column("blob")
    for target in targets:
        table.add_column(target.name, justify="right")
    for size in sizes:
        cells = [taken[target.name, size] for target in targets]
        told = [f"{statistics.median(times) * 1e3:.1f} ({max(times) * 1e3:.1f})" for times in cells]
        table.add_row(f"{size // MIB:,} MiB", *told)
    # A table that is written to a file must not be cut to 80 columns.
    console = Console(width=None if sys.stdout.isatty() else 140)
    console.print(
        f"{platform.node()}, {os.cpu_count()} cores, Python {platform.python_version()}, {time.strftime('%F')}"
    )
    console.print(table)


if __name__ == "__main__":
    main()
