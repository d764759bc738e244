"""Schema of the MetaServer's tables, as Alembic revisions in `versions`."""

from __future__ import annotations

from sqlalchemy import Engine

from wire import database

#: own name, because the ChunkMaster's tables may live in the same database
VERSION_TABLE = "alembic_version_metaserver"


def upgrade(engine: Engine) -> str:
    """Bring the database to this program's schema; its revision. Safe with several starters (wire.database.upgrade)."""
    return database.upgrade(engine, __name__, VERSION_TABLE)


def check(engine: Engine) -> None:
    """Raises Unavailable when the database does not answer or has another schema than this program's."""
    database.check_schema(engine, __name__, VERSION_TABLE)
