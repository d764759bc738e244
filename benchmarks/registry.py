"""How fast registries take and give blobs.

    python -m benchmarks.registry --speedy --with-docker-registry --data /dev/shm --data /var/tmp
    python -m benchmarks.registry --target ours=http://127.0.0.1:5000 --target theirs=http://127.0.0.1:5001

All targets are measured in turn within each round (a busy machine then harms all alike); the table holds the median of
the rounds. Registries started here (--speedy, --with-docker-registry) begin each round with an empty directory. Each
client is a process; its bytes and digests are made before the clock starts.

`--memory` measures memory instead: the proportional set size of the process group, idle and at its peak while several
clients push large layers.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import mmap
import multiprocessing as mp
import os
import platform
import statistics
import sys
import time
import uuid
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.processes import DockerRegistry, Elsewhere, PeakMemory, SpeedyServe, Started, Target, pss_bytes
from benchmarks.rawhttp import Connection, push

MIB = 1024 * 1024
CLIENT_TIMEOUT_S = 600.0
#: a large blob is pulled so many times in a round: once takes a fifth of a second, too short to be told from noise
PULLS_OF_LARGE = 4
_FORK = mp.get_context("fork")  # children share the payload's pages


@dataclass(frozen=True, slots=True)
class Case:
    """`streams` clients at once, each with `count` blobs of `size` bytes."""

    size: int
    count: int
    streams: int

    @property
    def label(self) -> str:
        size = f"{self.size // MIB} MiB" if self.size >= MIB else f"{self.size // 1024} KiB"
        return f"{size}, {self.streams} stream{'s' if self.streams > 1 else ''}"

    def rate(self, seconds: float) -> float:
        """MB/s for large blobs, blobs per second for small ones."""
        total = self.count * self.streams
        return total * self.size / 1e6 / seconds if self.size >= MIB else total / seconds

    @property
    def unit(self) -> str:
        return "MB/s" if self.size >= MIB else "/s"


def at_once(streams: int, prepare: Callable[[int], Callable[[], None]]) -> float:
    """Run `prepare(i)` in `streams` processes, then all that they returned at once; seconds from first to last."""
    barrier, results = _FORK.Barrier(streams), _FORK.SimpleQueue()

    def client(number: int) -> None:
        try:
            run = prepare(number)
            barrier.wait(CLIENT_TIMEOUT_S)
            begin = time.monotonic()
            run()
            results.put((begin, time.monotonic(), ""))
        except Exception as exc:  # noqa: BLE001 - the edge of a process: the parent reports it
            barrier.abort()
            results.put((0.0, 0.0, f"{type(exc).__name__}: {exc}"))

    processes = [_FORK.Process(target=client, args=(number,), daemon=True) for number in range(streams)]
    for process in processes:
        process.start()
    ends = [results.get() for _ in processes]
    for process in processes:
        process.join(CLIENT_TIMEOUT_S)
    troubles = [trouble for _, _, trouble in ends if trouble and not trouble.startswith("BrokenBarrier")]
    if troubles:
        raise SystemExit(f"a client failed: {troubles[0]}")
    return float(max(end for _, end, _ in ends) - min(begin for begin, _, _ in ends))


class Payloads:
    """Random bytes for every blob. Blobs differ in their first bytes only: making one costs one page and its digest."""

    def __init__(self, size_max: int) -> None:
        self._memory = mmap.mmap(-1, size_max, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        view = memoryview(self._memory)
        for start in range(0, size_max, 16 * MIB):
            view[start : start + 16 * MIB] = os.urandom(min(16 * MIB, size_max - start))

    def blob(self, size: int, *mark: object) -> tuple[memoryview, str]:
        """The next blob's bytes (valid until the next call in this process) and its digest."""
        view = memoryview(self._memory)[:size]
        view[:32] = hashlib.sha256(repr(mark).encode()).digest()
        return view, f"sha256:{hashlib.sha256(view).hexdigest()}"

    def small(self, size: int, count: int, *mark: object) -> list[tuple[memoryview, str]]:
        return [(memoryview(bytes(view)), digest) for view, digest in (self.blob(size, *mark, i) for i in range(count))]


def measure(
    target: Target, case: Case, payloads: Payloads, *, streamed: bool, run: str, verify: bool
) -> tuple[float, float]:
    """Seconds for pushing and for pulling the same blobs again; for pulling large ones once, of PULLS_OF_LARGE."""
    repository = f"bench/{run}"
    pulls = PULLS_OF_LARGE if case.size >= MIB else 1

    def blobs(number: int) -> list[tuple[memoryview, str]]:
        mark = (run, target.name, case.label, streamed, number)
        return [payloads.blob(case.size, *mark)] if case.count == 1 else payloads.small(case.size, case.count, *mark)

    def pusher(number: int) -> Callable[[], None]:
        mine, connection = blobs(number), Connection(target.url)

        def run_all() -> None:
            for view, digest in mine:
                push(connection, repository, view, digest, streamed=streamed)

        return run_all

    def puller(number: int) -> Callable[[], None]:
        digests = [digest for _, digest in blobs(number)]
        connection, buffer = Connection(target.url), memoryview(bytearray(MIB))

        def run_all() -> None:
            for digest in digests * pulls:
                check = digest if verify else None
                received = connection.download(f"/v2/{repository}/blobs/{digest}", buffer, check)
                if received != case.size:
                    raise ValueError(f"{received} bytes instead of {case.size}")

        return run_all

    return at_once(case.streams, pusher), at_once(case.streams, puller) / pulls


def compare(
    targets: list[Target], cases: list[Case], *, rounds: int, place: str, verify: bool, console: Console
) -> list[Any]:
    """Measure every case against every target, print the table, and give its numbers."""
    payloads = Payloads(max(case.size for case in cases))
    rates: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    for turn in range(rounds):
        for target in targets:
            target.renew()
        order = targets[turn % len(targets) :] + targets[: turn % len(targets)]
        for case in cases:
            for streamed in (True, False):
                for target in order:
                    os.sync()  # what one target left to the page cache is not written at the next one's expense
                    run = uuid.uuid4().hex[:12]
                    pushed_s, pulled_s = measure(target, case, payloads, streamed=streamed, run=run, verify=verify)
                    how = "push, streamed PATCH" if streamed else "push, one PUT"
                    rates[case.label, f"{how} {case.unit}", target.name].append(case.rate(pushed_s))
                    rates[case.label, f"pull {case.unit}", target.name].append(case.rate(pulled_s))
        console.print(f"round {turn + 1} of {rounds} on {place} done", style="dim")
    rows = sorted({(label, how) for label, how, _ in rates}, key=[k[:2] for k in rates].index)
    table = Table(title=f"{place}, median of {rounds} (lowest - highest)")
    for heading in ("blobs", "what", *(target.name for target in targets)):
        table.add_column(heading, justify="left" if heading in ("blobs", "what") else "right")
    report = []
    for label, how in rows:
        cells = []
        for target in targets:
            values = rates[label, how, target.name]
            median = statistics.median(values)
            cells.append(f"{median:,.0f} ({min(values):,.0f} - {max(values):,.0f})")
            report.append(
                {"place": place, "blobs": label, "what": how, "target": target.name, "median": median, "all": values}
            )
        table.add_row(label, how, *cells)
    console.print(table)
    return report


def memory(target: Started, clients: int, size: int, place: str, console: Console) -> list[Any]:
    """Idle, and at the peak while `clients` push `size` bytes each."""
    target.renew()
    assert target.process is not None
    time.sleep(2)  # let start-up garbage settle: idle is what stays
    idle = pss_bytes(target.process.pid)
    payloads = Payloads(size)
    peak = PeakMemory(target.process.pid)
    seconds, _ = measure(
        target, Case(size, 1, clients), payloads, streamed=True, run=uuid.uuid4().hex[:12], verify=False
    )
    peak.close()
    row = {
        "place": place, "target": target.name, "clients": clients, "bytes": size, "idle_bytes": idle,
        "peak_bytes": peak.peak_bytes, "push_mb_per_s": clients * size / 1e6 / seconds,
    }  # fmt: skip
    table = Table(title=f"memory of {target.name} on {place} (PSS of the process group)")
    table.add_column("idle MiB", justify="right")
    table.add_column(f"peak MiB, {clients} clients push and pull {size // MIB} MiB each", justify="right")
    table.add_column("push MB/s", justify="right")
    table.add_row(f"{idle / MIB:.0f}", f"{peak.peak_bytes / MIB:.0f}", f"{row['push_mb_per_s']:.0f}")
    console.print(table)
    return [row]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--target", action="append", default=[], metavar="NAME=URL", help="a registry that runs already"
    )
    parser.add_argument("--speedy", action="store_true", help="start the embedded server")
    parser.add_argument("--with-docker-registry", action="store_true", help="start Debian's docker-registry beside it")
    parser.add_argument("--data", action="append", default=[], type=Path, help="directory for registries started here")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--streams", default="1,4")
    parser.add_argument("--large-mib", type=int, default=256)
    parser.add_argument("--small-count", type=int, default=200, help="4 KiB blobs per stream (0: none)")
    parser.add_argument("--verify", action="store_true", help="hash what is pulled (slows the client)")
    parser.add_argument("--memory", action="store_true", help="measure memory instead of speed")
    parser.add_argument("--clients", type=int, default=8, help="clients of --memory")
    parser.add_argument(
        "--pss-of", type=int, metavar="PID", help="print the memory of this process group in MiB and stop"
    )
    parser.add_argument("--json", type=Path, help="write the numbers here too")
    return parser.parse_args()


def main() -> None:
    given = arguments()
    # A table that is written to a file must not be cut to 80 columns.
    console = Console(width=None if sys.stdout.isatty() else 140)
    if given.pss_of:
        console.print(f"{pss_bytes(given.pss_of) / MIB:.1f}")
        return
    streams = [int(part) for part in given.streams.split(",")]
    cases = [Case(given.large_mib * MIB, 1, n) for n in streams] if given.large_mib else []
    cases += [Case(4096, given.small_count, n) for n in streams] if given.small_count else []
    elsewhere: list[Target] = [Elsewhere(*pair.split("=", 1)) for pair in given.target]
    console.print(
        f"{platform.node()}, {os.cpu_count()} cores, Python {platform.python_version()}, {time.strftime('%F')}"
    )
    report: list[Any] = []
    for parent in given.data or [Path(os.environ.get("TMPDIR", "/tmp"))]:
        started: list[Started] = [SpeedyServe("speedy", parent)] if given.speedy else []
        started += [DockerRegistry("docker-registry", parent)] if given.with_docker_registry else []
        if not started and not elsewhere:
            sys.exit("nothing to measure: give --target NAME=URL or --speedy")
        try:
            if given.memory:
                for target in started:
                    report += memory(target, given.clients, given.large_mib * MIB, str(parent), console)
            else:
                report += compare(
                    [*elsewhere, *started],
                    cases,
                    rounds=given.rounds,
                    place=str(parent),
                    verify=given.verify,
                    console=console,
                )
        finally:
            for target in started:
                target.close()
    if given.json:
        given.json.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
