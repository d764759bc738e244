"""The registry as tests serve it: real metadata on SQLite, the real driver, chunks in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from metaserver import migrations
from metaserver.core import LocalMetaStore
from registry_driver.composition import compose
from tests.registry.memory_images import MemoryImageStore
from wire.database import create_engine
from wire.server import RoomApp
from wire.settings import RegistrySettings


def build(directory: str, **settings: Any) -> RoomApp:
    """`directory` holds the database and the faults; `settings` are RegistrySettings."""
    engine = create_engine(f"sqlite:///{directory}/meta.db")
    migrations.upgrade(engine)
    room = compose(LocalMetaStore(engine), MemoryImageStore(Path(directory)), RegistrySettings(**settings))

    def close() -> None:
        room.close()
        engine.dispose()

    return RoomApp(app=room.app, close=close)
