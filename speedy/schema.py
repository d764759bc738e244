"""The schemas of both rooms that keep rows, in one database or in one each."""

from __future__ import annotations

import chunkmaster.migrations
import metaserver.migrations
from wire import database

_WAIT_S = 30.0


def migrate_each(master_url: str, meta_url: str, *, wait_s: float = _WAIT_S, cluster_id: str | None = None) -> str:
    """Bring the schemas of ChunkMaster and MetaServer to this program's; a line for people.

    `cluster_id` is the id that a new cluster gets. Raises Conflict when the database belongs to another one,
    Unavailable when a schema is newer than this program or a database does not answer.
    """
    engine = database.create_engine(master_url, wait_s=wait_s)
    try:
        found = chunkmaster.migrations.upgrade(engine, cluster_id)
        if meta_url != master_url:
            engine.dispose()
            engine = database.create_engine(meta_url, wait_s=wait_s)
        revision = metaserver.migrations.upgrade(engine)
    finally:
        engine.dispose()
    return f"The schemas are up to date (cluster {found}, files and catalogue at revision {revision})."
