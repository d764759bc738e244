"""The ChunkMaster's schema: brings a database to it, and tells when a database has another one.

Revisions are named m0001, m0002, ..., with a letter that the MetaServer's do not have: databases that exist name theirs
so, and a program from before a change of names would take the new one for a newer schema.
"""

from __future__ import annotations

import uuid

from sqlalchemy import Connection, Engine, insert, select
from sqlalchemy.exc import IntegrityError

from chunkmaster import models
from wire import database
from wire.errors import BadRequest, Conflict

PACKAGE = "chunkmaster.migrations"
VERSION_TABLE = "alembic_version_chunkmaster"


def upgrade(engine: Engine, cluster_id: str | None = None) -> str:
    """Bring the schema to this program's, and give a new cluster its id; returns the cluster id.

    `cluster_id` (a UUID) is the id that a new cluster gets, else one is made. Safe with several starters and harmless
    to repeat. Raises Conflict when the database belongs to another cluster, Unavailable when its schema is newer than
    this program or it does not answer.
    """
    wanted = _checked(cluster_id)
    database.upgrade(engine, PACKAGE, VERSION_TABLE)
    try:
        found = database.run_transaction(engine, lambda connection: _found(connection, wanted or str(uuid.uuid4())))
    except IntegrityError:  # another starter wrote the rows between our look and our insert
        found = database.run_transaction(engine, lambda connection: _found(connection, ""))
    if wanted is not None and found != wanted:
        raise Conflict(f"the database belongs to cluster {found}, not to {wanted}")
    return found


def check(engine: Engine) -> None:
    """Return if the schema is this program's. Raises Unavailable, with what to do, if not."""
    database.check_schema(engine, PACKAGE, VERSION_TABLE)


def _checked(cluster_id: str | None) -> str | None:
    try:
        return None if cluster_id is None else str(uuid.UUID(cluster_id))
    except ValueError as exc:
        raise BadRequest(f"{cluster_id!r} is no cluster id: a UUID is wanted") from exc


def _found(connection: Connection, cluster_id: str) -> str:
    """The cluster's id; writes the rows that exist once when they are missing."""
    present = connection.scalar(select(models.cluster.c.cluster_id))
    if present is not None:
        return str(present)
    connection.execute(
        insert(models.cluster).values(
            id=1, cluster_id=cluster_id, table_version=1, last_group_id=0, created_s=database.now_s()
        )
    )
    connection.execute(insert(models.fid_counter).values(id=1, last_fid=0, last_range_id=0))
    return cluster_id
