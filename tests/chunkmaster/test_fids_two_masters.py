"""fids are never handed out twice: by several masters on one database, after kill -9, by a database that is behind."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import update

from chunkmaster import migrations
from chunkmaster.core import LocalChunkMaster
from chunkmaster.models import fid_counter, members
from tests.contracts.test_chunk_master import beat
from tests.postgres import PostgresServer
from tests.wire.serving import ROOT, wait_until
from wire.database import create_engine, run_transaction

COUNT = 3


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        address = f"sqlite:///{tmp_path}/master.db"
        migrate(address)
        yield address
        return
    server: PostgresServer = request.getfixturevalue("postgres_server")
    with server.database() as address:
        migrate(address)
        yield address


def migrate(address: str) -> None:
    engine = create_engine(address)
    migrations.upgrade(engine)
    engine.dispose()


def start_master(url: str, ledger: Path, reservations: int, *together: Path) -> subprocess.Popen[bytes]:
    """Another process with a master of its own, reserving from 4 threads; the ledger gets a line per answer.

    It begins when the masters of the ledgers `together` are there.
    """
    arguments = [url, str(ledger), str(reservations), *(str(path) for path in together)]
    return subprocess.Popen(
        [sys.executable, "-m", "tests.chunkmaster.test_fids_two_masters", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def main(url: str, ledger: str, reservations: str, *together: str) -> None:
    master = LocalChunkMaster(create_engine(url))
    # Each says that it is here and waits for all: a process takes longer to start than to reserve.
    Path(f"{ledger}.ready").touch()
    wait_until(lambda: all(Path(f"{name}.ready").exists() for name in together), 60, "the other masters")
    # One short write(2) per line: whole also when the process is killed.
    fd = os.open(ledger, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def reserve(number: int) -> None:
        reserved = master.reserve_fids(f"front-{os.getpid()}-{number % 4}", COUNT)
        os.write(fd, f"{reserved.range_id} {reserved.first} {reserved.last}\n".encode())

    # One each, and on only when all have theirs: however fast one of them is, they run at the same time.
    reserve(0)
    wait_until(lambda: all(Path(name).exists() and Path(name).stat().st_size for name in together), 60, "their first")
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(reserve, range(1, int(reservations))))


def ledger_of(*files: Path) -> list[tuple[int, int, int]]:
    rows = [line.split() for file in files if file.exists() for line in file.read_text().splitlines()]
    return [(int(range_id), int(first), int(last)) for range_id, first, last in rows]


def assert_never_twice(rows: list[tuple[int, int, int]]) -> None:
    fids = [fid for _, first, last in rows for fid in range(first, last + 1)]
    assert len(fids) == len(rows) * COUNT
    assert len(set(fids)) == len(fids)
    assert len({range_id for range_id, _, _ in rows}) == len(rows)


def test_two_processes_on_one_database_never_get_the_same_fid(url: str, tmp_path: Path) -> None:
    ledgers = [tmp_path / "one", tmp_path / "two"]
    processes = [start_master(url, ledger, 150, *ledgers) for ledger in ledgers]
    for process in processes:
        assert process.wait(60) == 0
    rows = ledger_of(*ledgers)
    assert len(rows) == 300
    assert_never_twice(rows)
    first, second = (ledger_of(ledger) for ledger in ledgers)
    # They did run at the same time.
    assert min(first)[0] < max(second)[0]
    assert min(second)[0] < max(first)[0]


def test_masters_killed_in_the_middle_leave_no_fid_to_be_given_again(url: str, tmp_path: Path) -> None:
    ledgers: list[Path] = []
    for number in range(3):
        ledger = tmp_path / f"ledger-{number}"
        ledgers.append(ledger)
        process = start_master(url, ledger, 100_000)
        wait_until(lambda found=ledger: len(ledger_of(found)) >= 20, 60, "the first reservations")
        process.kill()
        process.wait(30)
        assert_never_twice(ledger_of(*ledgers))


@pytest.mark.parametrize("state", ["rw", "down", "new"])
def test_a_database_behind_the_chunkservers_is_not_believed(url: str, state: str) -> None:
    """A database restored from a backup: its counter is older than the chunks, and so is what it says of a server."""
    engine = create_engine(url)
    pair = ("cs-1", "http://10.0.0.1:5400")
    before = LocalChunkMaster(engine, down_after_s=30.0)
    before.add_group((pair,))
    before.heartbeat(beat(pair))
    used = before.reserve_fids("front-1", 1000)
    run_transaction(engine, lambda connection: connection.execute(update(fid_counter).values(last_fid=0)))
    run_transaction(engine, lambda connection: connection.execute(update(members).values(state=state)))
    # A master that starts now waits for the servers it knows, because they tell how far fids really are.
    after = LocalChunkMaster(engine, down_after_s=30.0)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(after.reserve_fids, "front-1", 10)
        with pytest.raises(TimeoutError):
            waiting.result(0.3)
        after.heartbeat(beat(pair, fid_max=used.last))
        assert waiting.result(10).first > used.last
    engine.dispose()


if __name__ == "__main__":
    main(*sys.argv[1:])
