"""SQLAlchemy engines as the rooms use them: SQLite for one machine, PostgreSQL for a cluster; durable before answered.

SQLite: WAL, synchronous=FULL, foreign keys on. Writers run one after the other under BEGIN IMMEDIATE, and those that
wait at the same time share one commit (wire.group_commit). Readers have connections of their own and never wait for the
writer.
PostgreSQL: synchronous_commit on, statement and lock timeouts, a bounded pool, and an end to waiting for a server that
stands still (wire.postgres). Connections are not probed before use: a stale one fails at the first statement,
SQLAlchemy then drops all that are older, and run_transaction starts again, which is what it must be able to do anyway;
a probe would cost every request a round trip.

An engine is made after the fork of the process that uses it.
"""

from __future__ import annotations

import random
import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, cast

import sqlalchemy
from sqlalchemy import URL, Connection, Engine, Text, event, exc, make_url
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import Double, TypeEngine

from wire.errors import BadRequest, DeadlineExceeded, Overloaded, SpeedyError, StorageFull, Unavailable
from wire.group_commit import GroupCommitter
from wire.postgres import bounded
from wire.schema import check_schema, upgrade

__all__ = ["byte_sorted_text", "check_schema", "create_engine", "now_s", "run_transaction", "upgrade"]

T = TypeVar("T")

#: how much longer than its own time-out a server may take to tell that a statement was too slow
_ANSWER_SLACK_S = 2.0

#: SERIALIZABLE: as if transactions ran one after the other · READ COMMITTED: the caller locks what it relies on ·
#: REPEATABLE READ: one snapshot (reads) · AUTOCOMMIT: a snapshot per statement, without BEGIN and COMMIT (reads)
Isolation = Literal["SERIALIZABLE", "READ COMMITTED", "REPEATABLE READ", "AUTOCOMMIT"]


@dataclass(frozen=True, slots=True)
class _Behaviour:
    """How run_transaction treats an engine; travels in its execution options."""

    wait_s: float
    attempts_max: int
    committer: GroupCommitter | None


def create_engine(
    url: str,
    *,
    wait_s: float = 30.0,
    pool_max: int = 16,
    attempts_max: int = 40,
    busy_timeout_s: float = 5.0,
    connect_timeout_s: int = 3,
    statement_timeout_s: float = 30.0,
    lock_timeout_s: float = 10.0,
    batch_max: int = 64,
) -> Engine:
    """An engine for `url` ("sqlite:///relative", "sqlite:////absolute/file",
    "postgresql://user:password@host/database").

    `wait_s` bounds how long a transaction waits for a database that does not answer, for a connection of the pool (at
    most `pool_max`) and for the SQLite writer. `batch_max` transactions at most share one SQLite commit; 1 switches
    sharing off. Nothing is connected yet. Raises BadRequest for a URL that is neither.
    """
    parsed = _parse(url)
    if parsed.get_backend_name() == "sqlite":
        committer = GroupCommitter(wait_s=wait_s, batch_max=batch_max)
        engine = sqlalchemy.create_engine(
            parsed,
            connect_args={"timeout": busy_timeout_s, "check_same_thread": False, "isolation_level": None},
            pool_size=pool_max,
            max_overflow=0,
            pool_timeout=wait_s,
            pool_use_lifo=True,
            execution_options={"speedy": _Behaviour(wait_s, attempts_max, committer)},
        )
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine
    engine = sqlalchemy.create_engine(
        parsed.set(drivername="postgresql+psycopg2"),
        connect_args={
            "connection_factory": bounded(connect_timeout_s, statement_timeout_s + _ANSWER_SLACK_S),
            "application_name": "speedy",
            "keepalives_idle": 10,
            "keepalives_interval": 5,
            "keepalives_count": 3,
            "tcp_user_timeout": int(wait_s * 1000),
        },
        pool_size=pool_max,
        max_overflow=0,
        pool_timeout=wait_s,
        pool_use_lifo=True,
        execution_options={"speedy": _Behaviour(wait_s, attempts_max, None)},
    )
    event.listen(engine, "connect", _prepare_postgresql(statement_timeout_s, lock_timeout_s, wait_s))
    event.listen(engine, "checkout", _refuse_closed)
    return engine


def run_transaction(
    engine: Engine, fn: Callable[[Connection], T], *, read_only: bool = False, isolation: Isolation | None = None
) -> T:
    """The result of `fn(connection)` in one transaction, committed and on disk when this returns.

    `fn` may be called several times (so it must not have effects outside the database) and, on SQLite, in another
    caller's thread; it must not commit or run another transaction. It is repeated after serialization failures,
    deadlocks and a busy SQLite file, at most `attempts_max` times, and while the database cannot be reached, at most
    for `wait_s`. When the connection breaks during a commit, the outcome is unknown and `fn` is repeated too: it must
    be harmless to repeat. Isolation is SERIALIZABLE, REPEATABLE READ when `read_only`; SQLite always behaves like that,
    whatever is asked.

    Raises what `fn` raises (IntegrityError too), Unavailable (database does not answer), DeadlineExceeded (a lock or
    statement took too long), Overloaded (no connection or writer free in time), StorageFull (the database's disk).
    """
    behaviour: _Behaviour = engine.get_execution_options()["speedy"]
    deadline_s = time.monotonic() + behaviour.wait_s
    attempt = 0
    while True:
        attempt += 1
        try:
            return _attempt(engine, behaviour, fn, read_only, isolation)
        except exc.TimeoutError as error:
            raise Overloaded(f"all database connections are in use: {error}", retry_after_s=1) from error
        except exc.DBAPIError as error:
            trouble = _classify(error)
            if trouble is None:
                raise
            verdict, failure = trouble
            if verdict == "fail" or time.monotonic() >= deadline_s:
                raise failure from error
            if verdict == "conflict" and attempt >= behaviour.attempts_max:
                raise failure from error
            base_s, cap_s = (0.002, 0.25) if verdict == "conflict" else (0.05, 1.0)
            pause_s = min(cap_s, base_s * 2 ** min(attempt, 16)) * random.uniform(0.5, 1.0)  # noqa: S311 - jitter
            time.sleep(max(0.0, min(pause_s, deadline_s - time.monotonic())))


def _attempt(
    engine: Engine, behaviour: _Behaviour, fn: Callable[[Connection], T], read_only: bool, isolation: Isolation | None
) -> T:
    if behaviour.committer is not None:
        if not read_only:
            return cast(T, behaviour.committer.run(engine, fn))
        with engine.connect() as connection, connection.begin():
            return fn(connection)
    assert isolation != "AUTOCOMMIT" or read_only, "a write needs a transaction"
    level = isolation or ("REPEATABLE READ" if read_only else "SERIALIZABLE")
    with engine.connect() as connection:
        if level == "AUTOCOMMIT":
            return fn(connection.execution_options(isolation_level=level))
        with connection.execution_options(isolation_level=level, postgresql_readonly=read_only).begin():
            return fn(connection)


# -- what an error of the database means -------------------------------------------------------------------------------

#: conflict: run the transaction again at once · trouble: the database does not answer, wait for it · fail: give up
Verdict = Literal["conflict", "trouble", "fail"]

_SQLITE_BUSY, _SQLITE_LOCKED, _SQLITE_READONLY, _SQLITE_IOERR = 5, 6, 8, 10
_SQLITE_CORRUPT, _SQLITE_FULL, _SQLITE_CANTOPEN, _SQLITE_NOTADB = 11, 13, 14, 26


def _classify(error: exc.DBAPIError) -> tuple[Verdict, SpeedyError] | None:
    """What to do about a driver's error, and the exception when it is not to be repeated; None: the caller's own
    affair."""
    original: Any = error.orig
    text = str(original).strip()
    if isinstance(original, sqlite3.Error):
        return _classify_sqlite(getattr(original, "sqlite_errorcode", 0) & 0xFF, text)
    state = getattr(original, "pgcode", None)
    if state in {"40001", "40P01"}:
        return "conflict", Overloaded(f"transactions kept colliding: {text}", retry_after_s=1)
    if state in {"55P03", "57014"}:
        return "fail", DeadlineExceeded(f"the database took too long: {text}")
    if state == "53100":
        return "fail", StorageFull(f"the database's disk is full: {text}")
    # 08: connection, 57P: being shut down or started, 53300: too many clients, 25006: a standby after a failover
    lost = error.connection_invalidated or (state is None and isinstance(error, exc.OperationalError))
    if lost or (state is not None and (state.startswith(("08", "57P")) or state in {"53300", "25006"})):
        return "trouble", Unavailable(f"the database does not answer: {text}")
    return None


def _classify_sqlite(code: int, text: str) -> tuple[Verdict, SpeedyError] | None:
    if code in {_SQLITE_BUSY, _SQLITE_LOCKED}:
        return "conflict", Overloaded(f"the database stays locked: {text}", retry_after_s=1)
    if code == _SQLITE_FULL:
        return "fail", StorageFull(f"the database's disk is full: {text}")
    if code in {_SQLITE_READONLY, _SQLITE_IOERR, _SQLITE_CORRUPT, _SQLITE_CANTOPEN, _SQLITE_NOTADB}:
        return "fail", Unavailable(f"the database file cannot be used: {text}")
    return None


# -- connections -------------------------------------------------------------------------------------------------------

_WAL_ATTEMPTS_MAX, _WAL_PAUSE_S = 100, 0.02


def _parse(url: str) -> URL:
    try:
        parsed = make_url(url.replace("postgres://", "postgresql://", 1) if url.startswith("postgres://") else url)
    except exc.ArgumentError as error:
        raise BadRequest("the database URL cannot be read; expected sqlite:///FILE or postgresql://...") from error
    if parsed.get_backend_name() not in {"sqlite", "postgresql"}:
        raise BadRequest(f"database {parsed.get_backend_name()!r} is not supported; use sqlite or postgresql")
    if parsed.get_backend_name() == "sqlite" and (parsed.database in {None, "", ":memory:"} or parsed.query):
        raise BadRequest("an SQLite database needs a plain file: nothing that was answered may live in memory only")
    return parsed


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    _enter_wal(connection)
    for pragma in ("synchronous=FULL", "foreign_keys=ON", "journal_size_limit=67108864"):
        connection.execute(f"PRAGMA {pragma}").close()


def _enter_wal(connection: Any) -> None:
    """Several first users of a new file may switch it at the same moment; SQLite then refuses all but one at once,
    whatever the busy timeout."""
    for _ in range(_WAL_ATTEMPTS_MAX - 1):
        try:
            connection.execute("PRAGMA journal_mode=WAL").close()
        except sqlite3.OperationalError as error:
            if getattr(error, "sqlite_errorcode", 0) & 0xFF != _SQLITE_BUSY:
                raise
            time.sleep(_WAL_PAUSE_S)
        else:
            return
    connection.execute("PRAGMA journal_mode=WAL").close()


def _begin_sqlite(connection: Connection) -> None:
    # The driver is in autocommit mode (isolation_level None): its own BEGIN would be deferred, and a transaction that
    # reads first and writes later fails when another one wrote in between.
    connection.exec_driver_sql(connection.get_execution_options().get("speedy_begin", "BEGIN"))


def _refuse_closed(connection: Any, _record: Any, _proxy: Any) -> None:
    """One that broke on its way back to the pool; the pool then makes another."""
    if connection.closed:
        raise exc.DisconnectionError


def _prepare_postgresql(statement_s: float, lock_s: float, idle_s: float) -> Callable[[Any, Any], None]:
    statements = (
        f"SET statement_timeout = {int(statement_s * 1000)}; SET lock_timeout = {int(lock_s * 1000)};"
        f"SET idle_in_transaction_session_timeout = {int(idle_s * 1000)};"
        "SET synchronous_commit = on; SET timezone = 'UTC'"
    )

    def prepare(connection: Any, _record: Any) -> None:
        with connection.cursor() as cursor:
            cursor.execute(statements)
        connection.commit()  # else the first rollback takes the settings back

    return prepare


# -- pieces of SQL that differ -----------------------------------------------------------------------------------------


def byte_sorted_text() -> TypeEngine[str]:
    """Text that compares by its UTF-8 bytes on every database, so that lists have one order everywhere."""
    return Text(collation="C").with_variant(Text(collation="BINARY"), "sqlite")


class now_s(FunctionElement[float]):
    """Seconds since the epoch by the database's clock."""

    type = Double()
    inherit_cache = True
    name = "now_s"


@compiles(now_s, "sqlite")
def _now_sqlite(_element: now_s, _compiler: Any, **_options: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(now_s, "postgresql")
def _now_postgresql(_element: now_s, _compiler: Any, **_options: Any) -> str:
    return "CAST(extract(epoch FROM clock_timestamp()) AS double precision)"
