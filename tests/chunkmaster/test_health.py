"""How a master judges its members: over restarts, sleep, pauses of the database, and beside another master."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import Engine, event

from chunkmaster import migrations, table
from chunkmaster.core import LocalChunkMaster
from chunkmaster.interface import MemberState
from tests.contracts.test_chunk_master import GIB, beat, member_of, table_of
from tests.postgres import PostgresServer
from wire.database import create_engine
from wire.errors import SpeedyError, Unavailable

ONE = ("cs-1", "http://10.0.0.1:5400")
TWO = ("cs-2", "http://10.0.0.2:5400")


class Clock:
    """Time that passes when the test says so."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = create_engine(f"sqlite:///{tmp_path}/master.db")
    migrations.upgrade(engine)
    yield engine
    engine.dispose()


def new_master(engine: Engine, clock: Clock) -> LocalChunkMaster:
    return LocalChunkMaster(engine, clock=clock, down_after_s=3.0)


def pass_time(clock: Clock, master: LocalChunkMaster, seconds: float, *alive: tuple[str, str]) -> None:
    """Second by second, with heartbeats of `alive` and somebody looking at the table."""
    for _ in range(int(seconds * 2)):
        clock.now_s += 0.5
        for server in alive:
            master.heartbeat(beat(server))
        master.group_table()


def states(master: LocalChunkMaster, *servers: tuple[str, str]) -> list[MemberState]:
    return [member_of(master, server).state for server in servers]


def test_three_missed_heartbeats_make_a_member_down(engine: Engine, clock: Clock) -> None:
    master = new_master(engine, clock)
    master.add_group((ONE, TWO))
    pass_time(clock, master, 5, ONE, TWO)
    pass_time(clock, master, 2.5, ONE)
    assert states(master, ONE, TWO) == ["rw", "rw"]
    pass_time(clock, master, 1, ONE)
    assert states(master, ONE, TWO) == ["rw", "down"]
    age_s = member_of(master, TWO).heartbeat_age_s
    assert age_s is not None
    assert 3.0 <= age_s <= 4.0


def test_a_new_master_trusts_what_it_finds_for_three_heartbeats(engine: Engine, clock: Clock) -> None:
    old = new_master(engine, clock)
    old.add_group((ONE, TWO))
    pass_time(clock, old, 5, ONE, TWO)
    version, free_bytes = table_of(old).version, member_of(old, ONE).free_bytes
    new = new_master(engine, clock)
    assert states(new, ONE, TWO) == ["rw", "rw"]
    assert table_of(new).version == version
    assert member_of(new, ONE).free_bytes == free_bytes == 80 * GIB
    pass_time(clock, new, 2.5, ONE)
    assert states(new, ONE, TWO) == ["rw", "rw"]
    assert table_of(new).version == version
    pass_time(clock, new, 1, ONE)
    assert states(new, ONE, TWO) == ["rw", "down"]
    assert table_of(new).version > version


def test_a_member_that_was_down_stays_down_over_a_restart_until_it_reports(engine: Engine, clock: Clock) -> None:
    old = new_master(engine, clock)
    old.add_group((ONE, TWO))
    pass_time(clock, old, 5, ONE, TWO)
    pass_time(clock, old, 5, ONE)
    new = new_master(engine, clock)
    pass_time(clock, new, 10, ONE)
    assert states(new, ONE, TWO) == ["rw", "down"]
    new.heartbeat(beat(TWO))
    assert states(new, ONE, TWO) == ["rw", "rw"]


def test_a_member_never_heard_of_stays_new(engine: Engine, clock: Clock) -> None:
    master = new_master(engine, clock)
    master.add_group((ONE, TWO))
    pass_time(clock, master, 10, ONE)
    assert states(master, ONE, TWO) == ["rw", "new"]


def test_a_master_that_slept_does_not_blame_its_members(engine: Engine, clock: Clock) -> None:
    master = new_master(engine, clock)
    master.add_group((ONE, TWO))
    pass_time(clock, master, 5, ONE, TWO)
    version = table_of(master).version
    clock.now_s += 60.0
    assert states(master, ONE, TWO) == ["rw", "rw"]
    pass_time(clock, master, 2, ONE)
    assert states(master, ONE, TWO) == ["rw", "rw"]
    assert table_of(master).version == version
    pass_time(clock, master, 2, ONE)
    assert states(master, ONE, TWO) == ["rw", "down"]


def test_a_version_never_goes_back_over_restarts(engine: Engine, clock: Clock) -> None:
    seen = [0]
    for number in range(5):
        master = new_master(engine, clock)
        assert table_of(master).version >= seen[-1]
        seen.append(table_of(master).version)
        master.add_group(((f"cs-{number}", f"http://10.0.0.{number + 1}:5400"),))
        master.heartbeat(beat((f"cs-{number}", f"http://10.0.0.{number + 1}:5400")))
        seen.append(table_of(master).version)
        assert seen[-1] >= seen[-2] + 2


def test_heartbeats_that_tell_nothing_new_write_nothing(engine: Engine, clock: Clock) -> None:
    master = new_master(engine, clock)
    master.add_group((ONE, TWO))
    pass_time(clock, master, 2, ONE, TWO)
    writes: list[str] = []
    event.listen(
        engine,
        "before_cursor_execute",
        lambda _c, _cursor, sql, *_: writes.append(sql) if not sql.startswith(("SELECT", "BEGIN")) else None,
    )
    pass_time(clock, master, 50, ONE, TWO)
    assert writes == []


def test_two_masters_on_one_database_show_the_same(engine: Engine, clock: Clock) -> None:
    one, two = new_master(engine, clock), new_master(engine, clock)
    one.add_group((ONE, TWO))
    clock.now_s += 1.0
    assert states(two, ONE, TWO) == ["new", "new"]
    for _ in range(10):
        clock.now_s += 0.5
        for master in (one, two):
            master.heartbeat(beat(ONE))
            master.heartbeat(beat(TWO))
    clock.now_s += 1.0
    assert table_of(one).version == table_of(two).version
    settled = table_of(one).version
    for _ in range(20):
        clock.now_s += 0.5
        for master in (one, two):
            master.heartbeat(beat(ONE))
    clock.now_s += 1.0
    assert states(one, ONE, TWO) == states(two, ONE, TWO) == ["rw", "down"]
    assert table_of(one).version == table_of(two).version == settled + 1, "one change is written once"


def test_a_state_that_another_master_has_written_is_no_new_version(engine: Engine, clock: Clock) -> None:
    new_master(engine, clock).add_group((ONE,))
    judged = [replace(table.load(engine).members[ONE[0]], state="rw", total_bytes=GIB)]
    table.write_members(engine, judged)
    written = table.load(engine)
    assert written.members[ONE[0]] == judged[0]
    table.write_members(engine, judged)
    assert table.load(engine).version == written.version


def test_a_server_that_another_master_added_is_known_at_its_first_heartbeat(engine: Engine, clock: Clock) -> None:
    one, two = new_master(engine, clock), new_master(engine, clock)
    two.group_table()
    one.add_group((ONE,))
    assert two.heartbeat(beat(ONE)) is not None


def test_the_table_outlives_its_database(postgres_server: PostgresServer, clock: Clock) -> None:
    with postgres_server.database() as url:
        engine = create_engine(url, wait_s=0.2)
        migrations.upgrade(engine)
        master = new_master(engine, clock)
        master.add_group((ONE, TWO))
        pass_time(clock, master, 5, ONE, TWO)
        version = table_of(master).version
    # The database is gone now.
    pass_time(clock, master, 2, ONE, TWO)
    assert table_of(master).version == version
    assert states(master, ONE, TWO) == ["rw", "rw"]
    with pytest.raises(Unavailable):
        master.check()
    with pytest.raises(Unavailable):
        master.reserve_fids("front-1", 10)
    with pytest.raises(SpeedyError):
        master.add_group((("cs-3", "http://10.0.0.3:5400"),))
    engine.dispose()


def test_a_change_that_could_not_be_written_is_written_later(tmp_path: Path, clock: Clock) -> None:
    engine = create_engine(f"sqlite:///{tmp_path}/master.db", wait_s=0.2, busy_timeout_s=0.1, attempts_max=2)
    migrations.upgrade(engine)
    master = new_master(engine, clock)
    master.add_group((ONE,))
    pass_time(clock, master, 2, ONE)
    blocker = create_engine(f"sqlite:///{tmp_path}/master.db")
    with blocker.connect() as connection:
        connection.exec_driver_sql("UPDATE master_fid_counter SET last_fid = last_fid")
        master.heartbeat(beat(ONE, state="ro_full"))  # answered although it cannot be written
        connection.rollback()
    blocker.dispose()
    for _ in range(6):
        clock.now_s += 0.5
        master.heartbeat(beat(ONE, state="ro_full"))
    assert states(master, ONE) == ["ro_full"]
    assert states(new_master(engine, clock), ONE) == ["ro_full"]
    engine.dispose()
