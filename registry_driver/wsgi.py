"""Composition root of a cluster's registry: settings become clients of its rooms. The embedded server composes local
ones instead."""

from __future__ import annotations

from contextlib import ExitStack

from imageserver.client import HttpImageStore
from metaserver.client import HttpMetaStore
from registry_driver.composition import compose
from wire.auth import ClusterKey
from wire.server import RoomApp, StartRefused
from wire.settings import Settings


def build(settings: Settings) -> RoomApp:
    """To be called in the worker, after the fork. Raises StartRefused."""
    cluster = settings.cluster
    if cluster.key_file is None or not cluster.metaservers or not cluster.imageservers:
        raise StartRefused("a registry needs cluster.key_file, cluster.metaservers and cluster.imageservers")
    key = ClusterKey.load(cluster.key_file)
    with ExitStack() as opened:
        meta = HttpMetaStore(cluster.metaservers, key)
        opened.callback(meta.close)
        images = HttpImageStore(cluster.imageservers, key)
        opened.callback(images.close)
        room = compose(meta, images, settings.registry)
        opened.callback(room.close)
        close = opened.pop_all().close
    return RoomApp(app=room.app, close=close)
