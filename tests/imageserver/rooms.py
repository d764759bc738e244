"""What these tests start in processes of their own, through tests.wire.serving."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from imageserver import wsgi
from wire.server import RoomApp
from wire.settings import ClusterSettings, ImageServerSettings, Settings


def build_imageserver(masters: list[str], key_file: str, state_dir: str) -> RoomApp:
    """An ImageServer, composed as in production."""
    return wsgi.build(
        replace(
            Settings(),
            cluster=ClusterSettings(key_file=Path(key_file), masters=tuple(masters)),
            imageserver=replace(
                ImageServerSettings(),
                state_dir=Path(state_dir),
                replica_timeout_s=0.5,
                put_deadline_s=6.0,
                refresh_s=0.1,
            ),
        )
    )
