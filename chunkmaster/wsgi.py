"""Composition root of a ChunkMaster process: settings in, a running app out."""

from __future__ import annotations

import logging

from chunkmaster import migrations
from chunkmaster.app import create_app
from chunkmaster.core import LocalChunkMaster
from wire.auth import ClusterKey
from wire.database import create_engine
from wire.errors import Unavailable
from wire.server import RoomApp, StartRefused
from wire.settings import Settings

log = logging.getLogger("speedy.chunkmaster")

#: A master is asked again every second, and must not hold all its threads while the database pauses.
DATABASE_WAIT_S = 3.0


def build(settings: Settings) -> RoomApp:
    """Starts whether or not the database answers; /readyz tells when it does and has this program's schema.

    Raises StartRefused for settings that do not suffice.
    """
    if settings.cluster.key_file is None:
        raise StartRefused("cluster.key_file is not set: `speedy key generate` makes one")
    if settings.database.url is None:
        raise StartRefused("database.url is not set: a ChunkMaster keeps groups and fids in a database")
    key = ClusterKey.load(settings.cluster.key_file)
    engine = create_engine(
        settings.database.url,
        wait_s=min(settings.database.wait_s, DATABASE_WAIT_S),
        pool_max=settings.database.pool_max,
    )
    master = LocalChunkMaster(engine, down_after_s=settings.chunkmaster.down_after_s)
    try:
        migrations.check(engine)
    except Unavailable as exc:
        log.warning("not ready yet: %s", exc)
    return RoomApp(create_app(master, key=key, ready=master.check), engine.dispose)
