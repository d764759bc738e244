"""Brings a database to the schema of this program, and tells when it has another one. Use it through wire.database.

A room's migrations are a package (for instance "metaserver.migrations") with a package `versions` of Alembic revision
files in one line of descent. Alembic's own pieces are used (scripts, operations, version table), but neither its
command line nor an env.py: several rooms share one database, each with a version table of its own, and all must work
from an installed wheel.
"""

from __future__ import annotations

import importlib
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

from alembic.migration import MigrationContext
from alembic.operations import Operations
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, exc, text

from wire.errors import Unavailable
from wire.postgres import BoundedConnection

#: how long one starter waits for another that migrates
MIGRATION_WAIT_S = 120.0

#: SQLSTATE of PostgreSQL
INSUFFICIENT_PRIVILEGE = "42501"

#: longest single statement of a migration, on PostgreSQL
MIGRATION_STATEMENT_S = 3600.0


def upgrade(engine: Engine, migrations_package: str, version_table: str) -> str:
    """Apply what is missing, all in one transaction; the revision the schema is at now.

    Safe with several starters: one works (advisory lock, SQLite: exclusive lock), the others wait up to
    MIGRATION_WAIT_S and find nothing to do. Raises Unavailable when the schema is newer than this program
    (naming both revisions), or the database does not answer or is not in UTF-8.
    """
    scripts = _scripts(migrations_package)
    try:
        with _exclusive(engine, version_table) as connection:
            context = MigrationContext.configure(connection, opts={"version_table": version_table})
            current = _current(context, scripts, version_table)
            missing = list(scripts.iterate_revisions("head", current or "base"))
            with Operations.context(context):
                for revision in reversed(missing):
                    revision.module.upgrade()
                    context.stamp(scripts, revision.revision)
    except exc.OperationalError as error:
        raise Unavailable(f"the database {_shown(engine)} cannot be migrated: {_reason(error)}") from error
    except exc.ProgrammingError as error:
        if getattr(error.orig, "pgcode", None) != INSUFFICIENT_PRIVILEGE:
            raise
        # Since PostgreSQL 15 only a database's owner may make tables in it.
        raise Unavailable(
            f"the database {_shown(engine)} cannot be migrated: {_reason(error)}. Its owner may make tables: "
            f'ALTER DATABASE "{engine.url.database}" OWNER TO "{engine.url.username}"'
        ) from error
    return _head(scripts)


def check_schema(engine: Engine, migrations_package: str, version_table: str) -> None:
    """Return if the database answers and its schema is this program's. Raises Unavailable, with what to do, if not."""
    scripts = _scripts(migrations_package)
    try:
        with engine.connect() as connection:
            context = MigrationContext.configure(connection, opts={"version_table": version_table})
            current = _current(context, scripts, version_table)
    except (exc.OperationalError, exc.TimeoutError) as error:
        raise Unavailable(f"the database does not answer: {_reason(error)}") from error
    if current != _head(scripts):
        raise Unavailable(
            f"the database's schema ({version_table}) is at revision {current or 'none'}, "
            f"this program needs {_head(scripts)}: run `speedy migrate`"
        )


def _shown(engine: Engine) -> str:
    """Where it is, without its password."""
    return engine.url.set(drivername=engine.url.get_backend_name(), query={}).render_as_string(hide_password=True)


def _reason(error: exc.SQLAlchemyError) -> str:
    """The driver's words, the first line of them: what follows are guesses at the cause, or the statement."""
    words = str(getattr(error, "orig", None) or error).strip()
    return words.partition("\n")[0].rstrip(":")


def _current(context: MigrationContext, scripts: ScriptDirectory, version_table: str) -> str | None:
    """The database's revision, None for an empty one. Raises Unavailable when this program does not know it."""
    current = context.get_current_revision()
    known = {revision.revision for revision in scripts.walk_revisions()}
    if current is not None and current not in known:
        raise Unavailable(
            f"the database's schema ({version_table}) is at revision {current}, which this program does not know "
            f"(its newest is {_head(scripts)}): a newer version of Speedy has migrated it; start that one"
        )
    return current


@lru_cache(maxsize=16)
def _scripts(migrations_package: str) -> ScriptDirectory:
    package = importlib.import_module(migrations_package)
    assert package.__file__ is not None, f"{migrations_package} must be a package with an __init__.py"
    return ScriptDirectory(str(Path(package.__file__).parent))


def _head(scripts: ScriptDirectory) -> str:
    head = scripts.get_current_head()
    assert head is not None, "a migrations package holds at least one revision"
    return head


@contextmanager
def _exclusive(engine: Engine, version_table: str) -> Iterator[Connection]:
    """A transaction that no other starter's can overlap."""
    if engine.dialect.name == "sqlite":
        with _exclusive_sqlite(engine) as connection:
            yield connection
        return
    with engine.connect() as connection, connection.execution_options(isolation_level="READ COMMITTED").begin():
        encoding = connection.scalar(text("SHOW server_encoding"))
        if encoding != "UTF8":
            raise Unavailable(f"the database's encoding is {encoding}; create it with ENCODING 'UTF8'")
        connection.execute(text("SET LOCAL statement_timeout = 0"))
        connection.execute(text(f"SET LOCAL lock_timeout = {int(MIGRATION_WAIT_S * 1000)}"))
        driver = connection.connection.dbapi_connection
        assert isinstance(driver, BoundedConnection)
        usual_s, driver.answer_s = driver.answer_s, MIGRATION_STATEMENT_S
        try:
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": zlib.crc32(version_table.encode())})
            yield connection
        finally:
            driver.answer_s = usual_s


@contextmanager
def _exclusive_sqlite(engine: Engine) -> Iterator[Connection]:
    with engine.connect() as connection:
        driver = connection.connection.dbapi_connection
        assert driver is not None
        cursor = driver.cursor()
        busy_ms = cursor.execute("PRAGMA busy_timeout").fetchone()[0]
        # Rebuilding a table (SQLite's way to alter one) must not cascade deletes; keys are checked before the commit.
        cursor.execute("PRAGMA foreign_keys=OFF")
        cursor.execute(f"PRAGMA busy_timeout={int(MIGRATION_WAIT_S * 1000)}")
        try:
            with connection.execution_options(speedy_begin="BEGIN EXCLUSIVE").begin():
                yield connection
                broken = connection.execute(text("PRAGMA foreign_key_check")).first()
                assert broken is None, f"a migration broke a foreign key: {broken}"
        finally:
            cursor.execute("PRAGMA foreign_keys=ON")
            cursor.execute(f"PRAGMA busy_timeout={int(busy_ms)}")
            cursor.close()
