"""Where the ChunkMaster is that a command talks to: a cluster's, or the one inside a running embedded server."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from chunkmaster.client import HttpChunkMaster
from speedy.cluster_plan import PLAN_FILE, SETTINGS_FILE
from speedy.data_directory import ADDRESS_FILE, KEY_FILE
from wire.auth import ClusterKey
from wire.errors import BadRequest, Unavailable
from wire.settings import Settings


@contextmanager
def reach_master(settings: Settings, *, changes: bool = False) -> Iterator[HttpChunkMaster]:
    """The cluster's ChunkMaster when cluster.masters is set, else that of the embedded server on registry.data.

    Raises Unavailable when neither is there, BadRequest for `changes` to an embedded server (it has one group).
    """
    if settings.cluster.masters:
        if settings.cluster.key_file is None:
            raise BadRequest("cluster.masters is set, but not cluster.key_file")
        urls, key = list(settings.cluster.masters), load_key(settings.cluster.key_file)
    else:
        urls, key = [embedded_url(settings.registry.data)], load_key(settings.registry.data / KEY_FILE)
        if changes:
            raise BadRequest("the embedded server has one group; set cluster.masters to change a cluster's groups")
    master = HttpChunkMaster(urls, key)
    try:
        yield master
    finally:
        master.close()


def embedded_url(data: Path) -> str:
    """Where the embedded server of the directory listens. Raises Unavailable when none runs."""
    try:
        return str(json.loads((data / ADDRESS_FILE).read_text("utf-8"))["url"])
    except (OSError, ValueError, KeyError, TypeError) as exc:
        if os.path.exists(data / PLAN_FILE):  # which is False also where nobody may look
            raise Unavailable(
                f"{data} is a cluster's directory: speedy cluster status --data {data}, or --config "
                f"{data / SETTINGS_FILE} for what a cluster is asked"
            ) from exc
        raise Unavailable(
            f"no server runs on {data.absolute()}, and cluster.masters is not set (--config FILE, or --data DIR)"
        ) from exc


def load_key(file: Path) -> ClusterKey:
    try:
        return ClusterKey.load(file)
    except (OSError, ValueError) as exc:
        raise BadRequest(f"the cluster key cannot be read: {exc}") from exc
