"""wire.database on real SQLite files and a real PostgreSQL: durability settings, retries, shared commits,
migrations."""

from __future__ import annotations

import gc
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
import sqlalchemy
from sqlalchemy import Connection, Engine, event, text

from tests.postgres import PostgresServer
from wire.database import check_schema, create_engine, now_s, run_transaction, upgrade
from wire.errors import BadRequest, DeadlineExceeded, Overloaded, StorageFull, Unavailable

TABLE = "alembic_version_probe"


@pytest.fixture
def sqlite(tmp_path: Path) -> Iterator[Engine]:
    engine = create_engine(f"sqlite:///{tmp_path / 'test.db'}", wait_s=10.0)
    yield engine
    engine.dispose()


@pytest.fixture
def postgres(postgres_url: str) -> Iterator[Engine]:
    engine = create_engine(postgres_url, wait_s=10.0)
    yield engine
    engine.dispose()


@pytest.fixture(params=["sqlite", "postgres"])
def engine(request: pytest.FixtureRequest) -> Engine:
    engine: Engine = request.getfixturevalue(request.param)
    return engine


def make_counter(engine: Engine) -> None:
    def make(connection: Connection) -> None:
        connection.execute(
            text("CREATE TABLE counter (id INTEGER PRIMARY KEY, value BIGINT NOT NULL CHECK (value >= 0))")
        )
        connection.execute(text("INSERT INTO counter VALUES (1, 0)"))

    run_transaction(engine, make)


def read_counter(engine: Engine) -> int:
    value = run_transaction(engine, lambda c: c.scalar(text("SELECT value FROM counter WHERE id = 1")), read_only=True)
    assert isinstance(value, int)
    return value


def increment(connection: Connection) -> int:
    """Reads, thinks, writes: loses updates unless transactions behave as if one followed the other."""
    value = connection.scalar(text("SELECT value FROM counter WHERE id = 1"))
    assert isinstance(value, int)
    connection.execute(text("UPDATE counter SET value = :value WHERE id = 1"), {"value": value + 1})
    return value + 1


def test_sqlite_is_durable_and_checks_foreign_keys_on_every_connection(sqlite: Engine) -> None:
    def pragmas(connection: Connection) -> list[object]:
        return [connection.scalar(text(f"PRAGMA {name}")) for name in ("journal_mode", "synchronous", "foreign_keys")]

    assert run_transaction(sqlite, pragmas) == ["wal", 2, 1]
    assert run_transaction(sqlite, pragmas, read_only=True) == ["wal", 2, 1]


def test_postgresql_commits_synchronously_with_timeouts(postgres: Engine) -> None:
    def settings(connection: Connection) -> list[object]:
        names = ("synchronous_commit", "statement_timeout", "lock_timeout", "transaction_isolation")
        return [connection.scalar(text(f"SHOW {name}")) for name in names]

    assert run_transaction(postgres, settings) == ["on", "30s", "10s", "serializable"]
    assert run_transaction(postgres, settings, read_only=True)[3] == "repeatable read"
    assert run_transaction(postgres, settings, isolation="READ COMMITTED")[3] == "read committed"
    assert run_transaction(postgres, settings)[3] == "serializable"  # nothing sticks to a pooled connection


@pytest.mark.parametrize(
    "url", ["mysql://h/d", "nonsense", "sqlite://", "sqlite:///:memory:", "sqlite:///x?mode=memory"]
)
def test_a_url_that_is_no_lasting_database_is_refused(url: str) -> None:
    with pytest.raises(BadRequest):
        create_engine(url)


def test_concurrent_read_modify_write_loses_no_update(engine: Engine) -> None:
    make_counter(engine)
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda _: run_transaction(engine, increment), range(80)))
    assert sorted(results) == list(range(1, 81))
    assert read_counter(engine) == 80


def test_a_failing_transaction_changes_nothing_and_raises_its_own_error(engine: Engine) -> None:
    make_counter(engine)

    def fail(connection: Connection) -> None:
        increment(connection)
        raise KeyError("own")

    with pytest.raises(KeyError, match="own"):
        run_transaction(engine, fail)
    assert read_counter(engine) == 0


def test_the_databases_clock_is_in_seconds_since_the_epoch(engine: Engine) -> None:
    before = time.time()
    value = run_transaction(engine, lambda c: c.scalar(sqlalchemy.select(now_s())), read_only=True)
    assert value is not None
    assert before - 1 < value < time.time() + 1


# -- the shared commit -------------------------------------------------------------------------------------------------


def hold_the_writer(engine: Engine) -> tuple[threading.Thread, threading.Event]:
    """A transaction that has begun and ends when the event is set."""
    begun, release = threading.Event(), threading.Event()

    def hold(_connection: Connection) -> None:
        begun.set()
        assert release.wait(10)

    thread = threading.Thread(target=run_transaction, args=(engine, hold))
    thread.start()
    assert begun.wait(10)
    return thread, release


def waiting(engine: Engine) -> int:
    return len(engine.get_execution_options()["speedy"].committer._waiting)


def wait_until(condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, "the condition did not come true"
        time.sleep(0.001)


def test_writers_that_wait_together_share_one_commit_and_a_failing_one_spoils_nothing(sqlite: Engine) -> None:
    make_counter(sqlite)
    commits: list[int] = []
    event.listen(sqlite, "commit", lambda _connection: commits.append(1))

    def refused(connection: Connection) -> None:
        increment(connection)
        connection.execute(text("UPDATE counter SET value = -1 WHERE id = 1"))

    holder, release = hold_the_writer(sqlite)
    with ThreadPoolExecutor(12) as pool:
        good = [pool.submit(run_transaction, sqlite, increment) for _ in range(8)]
        bad = [pool.submit(run_transaction, sqlite, refused) for _ in range(4)]
        wait_until(lambda: waiting(sqlite) == 12)
        release.set()
        assert sorted(future.result(10) for future in good) == list(range(1, 9))
        for future in bad:
            with pytest.raises(sqlalchemy.exc.IntegrityError):
                future.result(10)
    holder.join(10)
    assert len(commits) == 1
    assert read_counter(sqlite) == 8


def test_a_caller_returns_only_after_the_commit_that_holds_its_write(sqlite: Engine) -> None:
    make_counter(sqlite)
    committing, go_on = threading.Event(), threading.Event()

    def pause(connection: Connection) -> None:
        if "speedy_begin" in connection.get_execution_options():  # the writer's commit, not the reader's below
            committing.set()
            assert go_on.wait(10)

    holder, release = hold_the_writer(sqlite)
    with ThreadPoolExecutor(1) as pool:
        follower = pool.submit(run_transaction, sqlite, increment)
        wait_until(lambda: waiting(sqlite) == 1)
        event.listen(sqlite, "commit", pause)
        release.set()
        assert committing.wait(10)
        assert not follower.done()
        assert read_counter(sqlite) == 0  # a reader does not wait for the writer
        go_on.set()
        assert follower.result(10) == 1
    holder.join(10)


def test_a_full_disk_fails_its_own_writer_and_keeps_the_others(sqlite: Engine) -> None:
    make_counter(sqlite)

    def limited(connection: Connection) -> None:
        connection.execute(text("PRAGMA max_page_count = 8"))
        connection.execute(text("CREATE TABLE big (value BLOB)"))
        connection.execute(text("INSERT INTO big VALUES (zeroblob(200000))"))

    holder, release = hold_the_writer(sqlite)
    with ThreadPoolExecutor(3) as pool:
        before = pool.submit(run_transaction, sqlite, increment)
        wait_until(lambda: waiting(sqlite) == 1)
        full = pool.submit(run_transaction, sqlite, limited)
        wait_until(lambda: waiting(sqlite) == 2)
        after = pool.submit(run_transaction, sqlite, increment)
        wait_until(lambda: waiting(sqlite) == 3)
        release.set()
        with pytest.raises(StorageFull):
            full.result(10)
        assert {before.result(10), after.result(10)} == {1, 2}
    holder.join(10)
    assert read_counter(sqlite) == 2


def test_a_writer_whose_turn_does_not_come_gives_up_and_changes_nothing(tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path / 'test.db'}", wait_s=0.3)
    make_counter(engine)
    holder, release = hold_the_writer(engine)
    with pytest.raises(DeadlineExceeded):
        run_transaction(engine, increment)
    release.set()
    holder.join(10)
    assert read_counter(engine) == 0
    assert run_transaction(engine, increment) == 1
    engine.dispose()


def test_another_process_that_holds_the_file_is_waited_for_and_then_named(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'test.db'}"
    mine, other = create_engine(url, wait_s=0.5, busy_timeout_s=0.1), create_engine(url)
    make_counter(mine)
    holder, release = hold_the_writer(other)
    with pytest.raises(Overloaded, match="locked"):
        run_transaction(mine, increment)
    release.set()
    holder.join(10)
    assert run_transaction(mine, increment) == 1
    mine.dispose()
    other.dispose()


def test_many_writers_with_random_failures_each_get_their_own_answer(sqlite: Engine) -> None:
    make_counter(sqlite)
    run_transaction(sqlite, lambda c: c.execute(text("CREATE TABLE done (id INTEGER PRIMARY KEY)")) and None)

    def work(number: int) -> int | None:
        fails = random.Random(number).random() < 0.3

        def write(connection: Connection) -> int:
            connection.execute(text("INSERT INTO done VALUES (:id)"), {"id": number})
            increment(connection)
            if fails:
                raise ValueError(number)
            return number

        if fails:
            with pytest.raises(ValueError, match=f"^{number}$"):
                run_transaction(sqlite, write)
            return None
        return run_transaction(sqlite, write)

    with ThreadPoolExecutor(16) as pool:
        succeeded = {number for number in pool.map(work, range(300)) if number is not None}
    rows = run_transaction(sqlite, lambda c: set(c.scalars(text("SELECT id FROM done"))), read_only=True)
    assert rows == succeeded
    assert read_counter(sqlite) == len(succeeded)
    assert 0 < len(succeeded) < 300


# -- a database that is away -------------------------------------------------------------------------------------------


def test_a_database_that_stays_away_is_unavailable_after_the_bounded_wait() -> None:
    engine = create_engine("postgresql://nobody@127.0.0.1:1/none", wait_s=0.5)
    started_s = time.monotonic()
    with pytest.raises(Unavailable, match="does not answer"):
        run_transaction(engine, lambda c: c.scalar(text("SELECT 1")))
    assert 0.4 < time.monotonic() - started_s < 5.0


def test_connections_that_never_came_about_leave_no_descriptor_with_their_errors() -> None:
    engine = create_engine("postgresql://nobody@127.0.0.1:1/none", wait_s=0.2)
    before = len(os.listdir("/proc/self/fd"))
    kept: list[Unavailable] = []
    gc.disable()  # its coming is what the descriptors waited for
    try:
        for _ in range(5):
            with pytest.raises(Unavailable) as caught:
                run_transaction(engine, lambda c: c.scalar(text("SELECT 1")))
            kept.append(caught.value)
        assert len(os.listdir("/proc/self/fd")) == before
    finally:
        gc.enable()


def test_connections_that_the_server_closed_are_replaced_without_an_error(postgres: Engine) -> None:
    make_counter(postgres)
    barrier = threading.Barrier(4)

    def meet(connection: Connection) -> None:
        connection.execute(text("SELECT 1"))
        barrier.wait(10)

    with ThreadPoolExecutor(4) as pool:  # four connections in the pool
        list(pool.map(lambda _: run_transaction(postgres, meet, read_only=True), range(4)))
    killer = sqlalchemy.create_engine(postgres.url, isolation_level="AUTOCOMMIT")
    with killer.connect() as connection:
        connection.execute(
            text(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        )
    killer.dispose()
    assert run_transaction(postgres, increment) == 1
    assert read_counter(postgres) == 1


def test_a_connection_that_breaks_after_its_last_statement_costs_no_place_in_the_pool(postgres_url: str) -> None:
    engine = create_engine(postgres_url, wait_s=5.0, pool_max=1)
    killer = sqlalchemy.create_engine(postgres_url, isolation_level="AUTOCOMMIT")

    def read_and_break(connection: Connection) -> int:
        backend = connection.execute(text("SELECT pg_backend_pid()")).scalar_one()
        with killer.connect() as other:
            other.execute(text("SELECT pg_terminate_backend(:backend, 5000)"), {"backend": backend})
        return 7

    for _ in range(2):
        # After a write the way back from AUTOCOMMIT is a statement of its own.
        assert run_transaction(engine, lambda c: c.execute(text("SELECT 1")).scalar_one()) == 1
        assert run_transaction(engine, read_and_break, read_only=True, isolation="AUTOCOMMIT") == 7
    assert run_transaction(engine, lambda c: c.execute(text("SELECT 1")).scalar_one()) == 1
    engine.dispose()
    killer.dispose()


def test_a_server_that_stands_still_is_given_up_and_asked_again_when_it_goes_on(postgres_url: str) -> None:
    engine = create_engine(postgres_url, wait_s=0.5, statement_timeout_s=0.5)
    ask = partial(run_transaction, engine, lambda c: c.scalar(text("SELECT pg_backend_pid()")))
    frozen = ask()
    os.kill(frozen, signal.SIGSTOP)
    try:
        with pytest.raises(Unavailable, match=r"has not answered for 2\.5 s"):
            ask()
    finally:
        os.kill(frozen, signal.SIGCONT)
    assert ask() != frozen
    engine.dispose()


def test_a_lock_that_is_held_too_long_is_a_deadline(postgres_server: PostgresServer) -> None:
    with postgres_server.database() as url:
        engine = create_engine(url, lock_timeout_s=0.2)
        make_counter(engine)
        holding, release = threading.Event(), threading.Event()

        def hold(connection: Connection) -> None:
            increment(connection)
            holding.set()
            assert release.wait(10)

        with ThreadPoolExecutor(1) as pool:
            held = pool.submit(run_transaction, engine, hold)
            assert holding.wait(10)
            with pytest.raises(DeadlineExceeded):
                run_transaction(engine, increment)
            release.set()
            held.result(10)
        engine.dispose()


def test_a_pool_without_a_free_connection_is_overload(postgres_server: PostgresServer) -> None:
    with postgres_server.database() as url:
        engine = create_engine(url, pool_max=1, wait_s=0.2)
        with engine.connect(), pytest.raises(Overloaded):
            run_transaction(engine, lambda c: c.scalar(text("SELECT 1")))
        engine.dispose()


# -- migrations --------------------------------------------------------------------------------------------------------

REVISION = """
import sqlalchemy as sa
from alembic import op

revision = "{revision}"
down_revision = {previous!r}

def upgrade():
    {body}
"""


@pytest.fixture
def migrations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], str]]:
    """Makes a migrations package with so many revisions; its name."""
    made: list[str] = []

    def make(count: int) -> str:
        name = f"probe_migrations_{count}"
        versions = tmp_path / "packages" / name / "versions"
        versions.mkdir(parents=True)
        (versions.parent / "__init__.py").touch()
        (versions / "__init__.py").touch()
        bodies = ["op.create_table('t', sa.Column('a', sa.Integer))", "op.add_column('t', sa.Column('b', sa.Integer))"]
        for number, body in enumerate(bodies[:count], start=1):
            previous = f"{number - 1:04}" if number > 1 else None
            source = REVISION.format(revision=f"{number:04}", previous=previous, body=body)
            (versions / f"{number:04}.py").write_text(source)
        made.append(name)
        return name

    monkeypatch.syspath_prepend(str(tmp_path / "packages"))
    (tmp_path / "packages").mkdir()
    yield make
    for name in made:
        sys.modules.pop(name, None)
    from wire import schema

    schema._scripts.cache_clear()


def test_an_empty_database_is_migrated_and_then_accepted(engine: Engine, migrations: Callable[[int], str]) -> None:
    package = migrations(1)
    with pytest.raises(Unavailable, match="speedy migrate"):
        check_schema(engine, package, TABLE)
    assert upgrade(engine, package, TABLE) == "0001"
    check_schema(engine, package, TABLE)
    assert upgrade(engine, package, TABLE) == "0001"


def test_an_older_schema_names_the_command_and_a_newer_one_is_refused(
    engine: Engine, migrations: Callable[[int], str]
) -> None:
    older, newer = migrations(1), migrations(2)
    upgrade(engine, older, TABLE)
    with pytest.raises(Unavailable, match=r"0001.*0002.*speedy migrate"):
        check_schema(engine, newer, TABLE)
    assert upgrade(engine, newer, TABLE) == "0002"
    for refuse in (check_schema, upgrade):
        with pytest.raises(Unavailable, match=r"0002.*0001.*newer"):
            refuse(engine, older, TABLE)


def test_several_starters_migrate_once(engine: Engine, migrations: Callable[[int], str]) -> None:
    package = migrations(2)
    starters = [create_engine(engine.url.render_as_string(hide_password=False)) for _ in range(6)]
    with ThreadPoolExecutor(6) as pool:
        assert set(pool.map(lambda starter: upgrade(starter, package, TABLE), starters)) == {"0002"}
    check_schema(engine, package, TABLE)
    for starter in starters:
        starter.dispose()


def test_a_migration_that_fails_leaves_the_schema_as_it_was(
    engine: Engine, migrations: Callable[[int], str], tmp_path: Path
) -> None:
    package = migrations(2)
    second = tmp_path / "packages" / package / "versions" / "0002.py"
    second.write_text(second.read_text() + "    raise RuntimeError('half way')\n")
    with pytest.raises(RuntimeError, match="half way"):
        upgrade(engine, package, TABLE)
    with pytest.raises(Unavailable, match="revision none"):
        check_schema(engine, package, TABLE)
    assert not sqlalchemy.inspect(engine).has_table("t")
