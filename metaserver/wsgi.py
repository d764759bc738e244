"""Composition root of a MetaServer process: settings in, a running app out."""

from __future__ import annotations

import logging

from metaserver import migrations
from metaserver.app import create_app
from metaserver.core import LocalMetaStore
from wire.auth import ClusterKey
from wire.database import create_engine
from wire.errors import Unavailable
from wire.server import RoomApp, StartRefused
from wire.settings import Settings

log = logging.getLogger("speedy.metaserver")


def build(settings: Settings) -> RoomApp:
    """Starts whether or not the database answers; /readyz tells when it does and has this program's schema.

    Raises StartRefused for settings that do not suffice.
    """
    if settings.cluster.key_file is None:
        raise StartRefused("cluster.key_file is not set: `speedy key generate` makes one")
    if settings.database.url is None:
        raise StartRefused("database.url is not set: a MetaServer keeps files and the catalogue in a database")
    key = ClusterKey.load(settings.cluster.key_file)
    engine = create_engine(settings.database.url, wait_s=settings.database.wait_s, pool_max=settings.database.pool_max)
    try:
        migrations.check(engine)
    except Unavailable as exc:
        log.warning("not ready yet: %s", exc)
    return RoomApp(create_app(LocalMetaStore(engine), key=key), engine.dispose)
