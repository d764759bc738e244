"""What tests of chunk rooms start in processes of their own, through tests.wire.serving."""

from __future__ import annotations

import socket
from dataclasses import replace
from pathlib import Path

from chunkmaster import migrations, wsgi
from wire.auth import ClusterKey
from wire.database import create_engine
from wire.server import RoomApp
from wire.settings import ChunkMasterSettings, ClusterSettings, DatabaseSettings, Settings

KEY = ClusterKey(b"the key of all rooms in these tests")
DOWN_AFTER_S = 0.6


def build_master(database_url: str, key_file: str, migrate: bool = True) -> RoomApp:
    """A ChunkMaster, composed as in production, on a database that is migrated first."""
    if migrate:
        engine = create_engine(database_url)
        migrations.upgrade(engine)
        engine.dispose()
    return wsgi.build(
        replace(
            Settings(),
            cluster=ClusterSettings(key_file=Path(key_file)),
            database=replace(DatabaseSettings(), url=database_url),
            chunkmaster=replace(ChunkMasterSettings(), down_after_s=DOWN_AFTER_S),
        )
    )


def free_port() -> int:
    """A port that was free a moment ago, for servers whose address must be known before they start."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
